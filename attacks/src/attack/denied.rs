//! T12: everybody asks the switch for everything that they may not have.

use super::requests::settle;
use crate::{
    Error, Outcome, Stage,
    access::{
        certificates::{Authority, Identity},
        operations::{Operation, ROLES, all},
        remote::{self, ADDRESS, Caller, record},
    },
    bystander::under,
    network::{Network, settings},
    switch::Switch,
};
use flowlane_lab::{Netns, as_user};
use hyper::Method;
use serde_json::{Value, json};
use std::{
    fs::{self, Permissions},
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    thread,
    time::Duration,
};

/// Users of the machine by their role, the place among [`ROLES`]; the first has none.
const USERS: [(Option<usize>, u32); 4] = [(None, 65_534), (Some(0), 2_001), (Some(1), 2_002), (Some(2), 2_003)];
const ACCESS: &str =
    "[access.observe]\nusers = [2001]\n[access.operate]\nusers = [2002]\n[access.admin]\nusers = [2003]\n";
/// Where a session is recorded.
const RECORDER: &str = "127.0.0.1:7444";
/// How long an answer to a session that is played again is waited for.
const SILENCE: Duration = Duration::from_secs(2);

/// Who asks, and what they must get: the code of a problem, or the alert of TLS that ends the session.
struct From<'a> {
    name: String,
    role: Option<usize>,
    by: By<'a>,
}

enum By<'a> {
    /// A user of the machine.
    User(u32),
    /// A certificate that begins a session, or none.
    Certificate(Option<&'a Identity>),
    /// One that begins no session, and the alert that says so.
    Alert(Option<&'a Identity>, &'static str),
}

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let directory = tempfile::tempdir().map_err(Error::system("make a directory for certificates"))?;
    let authority = Authority::new(directory.path(), "authority")?;
    let other = Authority::new(directory.path(), "other")?;
    let server = authority.sign("switch", "127.0.0.1")?;
    let [observe, operate, admin] = ROLES.map(|role| authority.sign(role, &format!("{role}.test")));
    let callers = [observe?, operate?, admin?];
    let settings = format!("{}{ACCESS}{}", settings("tc", 65_536, ""), remote::settings(&server, &authority, &callers));
    let switch = network.switch_with(stage.program, &settings)?;
    let open = fs::set_permissions(switch.path(""), Permissions::from_mode(0o755));
    open.map_err(Error::system("let other users reach the switch's socket"))?;
    let flow = switch.open(&json!({ "port": "pa", "client": "owner", "destination": "10.3.0.2" }))?.to_string();
    let group = json!({ "port": "pa", "client": "owner", "receivers": ["02:00:00:00:03:02@pc"] }).to_string();
    let group = switch.call("POST", "/v1/groups", Some(group.as_bytes()))?;
    group.map_err(|problem| Error::Switch(format!("a group: {problem}")))?;

    let stranger = authority.sign("stranger", "stranger.test")?;
    let expired = authority.sign_expired("expired", "admin.test")?;
    let forged = other.sign("forged", "admin.test")?;
    let users = USERS.map(|(role, user)| From { name: format!("user {user}"), role, by: By::User(user) });
    let shown = callers.iter().enumerate().map(|(role, identity)| From {
        name: format!("certificate {}", ROLES[role]),
        role: Some(role),
        by: By::Certificate(Some(identity)),
    });
    let without = [
        ("a certificate without a role", By::Certificate(Some(&stranger))),
        ("no certificate", By::Alert(None, "CertificateRequired")),
        ("an expired certificate", By::Alert(Some(&expired), "CertificateExpired")),
        ("a certificate of another authority", By::Alert(Some(&forged), "UnknownCA")),
    ];
    let without = without.into_iter().map(|(name, by)| From { name: name.into(), role: None, by });
    let from: Vec<From<'_>> = users.into_iter().chain(shown).chain(without).collect();
    let operations = all()?;
    // All that each of them may not.
    let calls: Vec<(&From<'_>, &Operation)> = from
        .iter()
        .flat_map(|from| operations.iter().map(move |operation| (from, operation)))
        .filter(|(from, operation)| from.role.is_none_or(|role| role < operation.role))
        .collect();

    let replay = Replay::record(&network.netns, &switch, &authority, &callers[1])?;
    settle(&switch)?;
    let before = state(&switch)?;
    let (mut asked, mut granted, mut replays) = (0usize, Vec::new(), 0u32);
    let impact = under(&network, &switch, stage.rounds(), || {
        for (from, operation) in calls.iter().cycle().skip(asked % calls.len()).take(8) {
            if let Err(why) = from.ask(&network.netns, &switch, &authority, operation, &flow)? {
                granted.push(why);
            }
            asked += 1;
        }
        if asked % 64 == 0 {
            replay.play(&network.netns, &authority)?;
            replays += 1;
        }
        Ok(())
    })?;
    let mut outcome = Outcome::of(impact);
    granted.dedup();
    outcome.must(granted.is_empty(), || format!("{} not denied, such as {}", granted.len(), granted[0]));
    outcome.must(asked >= calls.len() && replays > 0, || format!("only {asked} of {} calls were tried", calls.len()));
    let after = state(&switch)?;
    outcome.must(before == after, || format!("something has changed: {after}"));
    outcome.must(switch.differences()?.is_empty(), || "leases and table differ".into());
    outcome.say(format!("{asked} calls denied, of {} by {} callers", calls.len(), from.len()));
    outcome.say(format!("a recorded session played again {replays} times"));
    Ok(outcome)
}

impl From<'_> {
    /// Asks for an operation. An error inside says how it was not denied.
    fn ask(
        &self,
        netns: &Netns,
        switch: &Switch,
        authority: &Authority,
        operation: &Operation,
        flow: &str,
    ) -> Result<Result<(), String>, Error> {
        let (path, body) = (operation.path(flow, "02:00:00:00:03:02@pc"), operation.body());
        let (method, caller) = (&operation.method, |identity| Caller { netns, authority, identity });
        let call = |identity| caller(identity).call(ADDRESS, method, &path, body.unwrap_or_default());
        let (is_denied, answer) = match self.by {
            By::User(user) => {
                let called = as_user(user, &[], || switch.call(method.as_str(), &path, body.map(str::as_bytes)));
                let answer = called.map_err(Error::system("become another user"))??;
                (answer.as_ref().is_err_and(|problem| problem["code"] == "denied"), format!("{answer:?}"))
            }
            By::Certificate(identity) => {
                let answer = call(identity);
                let is_denied = matches!(&answer, Ok((403, problem)) if problem["code"] == "denied");
                (is_denied, format!("{answer:?}"))
            }
            By::Alert(identity, alert) => {
                let answer = call(identity);
                (answer.as_ref().is_err_and(|error| error.contains(alert)), format!("{answer:?}"))
            }
        };
        Ok(if is_denied { Ok(()) } else { Err(format!("{method} {path} by {}: {answer}", self.name)) })
    }
}

/// What a caller said in a session that closed a flow.
struct Replay(Vec<u8>);

impl Replay {
    fn record(netns: &Netns, switch: &Switch, authority: &Authority, with: &Identity) -> Result<Self, Error> {
        let closed = switch.open(&json!({ "port": "pa", "client": "recorded" }))?;
        let caller = Caller { netns, authority, identity: Some(with) };
        let listener = netns.run(|| TcpListener::bind(RECORDER))?.map_err(Error::system("listen for a session"))?;
        let to_switch = caller.connect(ADDRESS).map_err(Error::system("reach the switch from another machine"))?;
        let recording = thread::spawn(move || record(&listener, to_switch));
        let answer = caller.call(RECORDER, &Method::DELETE, &format!("/v1/flows/{closed}"), "");
        if !matches!(answer, Ok((200, _))) {
            return Err(Error::Switch(format!("the session that is recorded does not work: {answer:?}")));
        }
        let recorded = recording.join().map_err(|_| Error::Switch("the recorder has ended".into()))?;
        Ok(Self(recorded.map_err(Error::system("record a session"))?))
    }

    /// Says it again. What comes back says nothing, for it can not be read without the session's keys; what matters is that
    /// nothing changes.
    fn play(&self, netns: &Netns, authority: &Authority) -> Result<(), Error> {
        let stream = Caller { netns, authority, identity: None }.connect(ADDRESS);
        let mut stream = stream.map_err(Error::system("reach the switch from another machine"))?;
        stream.set_read_timeout(Some(SILENCE)).map_err(Error::system("set a timeout"))?;
        // It may end the session while that is still being written.
        let _ = stream.write_all(&self.0).and_then(|()| stream.read_to_end(&mut Vec::new()));
        Ok(())
    }
}

/// What is the owner's, who is at the attacker's port, without what changes by itself.
fn state(switch: &Switch) -> Result<Value, Error> {
    let mut kept = Vec::new();
    for path in ["/v1/flows", "/v1/groups", "/v1/table"] {
        let list = switch.get(path)?;
        let is_owners = |entry: &&Value| entry["port"] == "pa" || entry["port"] == 1;
        for entry in list.as_array().into_iter().flatten().filter(is_owners) {
            let mut entry = entry.clone();
            entry.as_object_mut().map(|entry| entry.remove("remaining"));
            kept.push(entry);
        }
    }
    if kept.is_empty() { Err(Error::Switch("nothing is there that could change".into())) } else { Ok(kept.into()) }
}
