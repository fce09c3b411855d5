//! The routes, with a task in the place of the switch that answers each command with what it understood.

use super::{
    access::{operations, role_of},
    local::process_name,
    *,
};
use crate::api::{
    client::{Address as At, Client, ClientError},
    groups::{GroupView, OpenGroup},
};
use crate::switch::groups::GroupCommand;
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};

const FLOW: Mac = Mac([0xa2, 0xf1, 0, 0, 0, 7]);
const NOBODY: Mac = Mac([0xa2, 0xf1, 0, 0, 0, 8]);

/// An interface with an answering task behind it. Dropping it ends both.
struct Interface {
    directory: tempfile::TempDir,
    _tasks: [JoinHandle<()>; 2],
}

impl Interface {
    async fn start() -> Self {
        Self::for_users(AccessConfig::default()).await
    }

    async fn for_users(access: AccessConfig) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (commands, mut received) = mpsc::channel(8);
        let socket = directory.path().join("run/switch.sock");
        let doors = Doors { socket: socket.clone(), access, remote: None };
        let served = tokio::spawn(async move { serve(doors, commands).await.expect("served") });
        let answering = tokio::spawn(async move {
            while let Some(command) = received.recv().await {
                answer(command);
            }
        });
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self { directory, _tasks: [served, answering] }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/switch.sock")
    }

    async fn client(&self) -> Client {
        Client::connect(&At::Socket(self.socket())).await.expect("connected")
    }

    /// The status and body of the answer to a request as it stands on the wire.
    async fn raw(&self, request: &str) -> (u16, serde_json::Value) {
        let mut stream = UnixStream::connect(self.socket()).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.expect("in time").expect("UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).expect("JSON"))
    }
}

fn request(method: &str, path: &str, body: &str) -> String {
    let len = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {len}\r\n\r\n{body}"
    )
}

fn answer(command: Command) {
    let problem = |code: &str| Problem { code: code.into(), message: format!("as asked: {code}") };
    let lease = |address: Mac, client: String, lifetime: u32| LeaseView {
        addresses: vec![address.to_string()],
        port: "p1".into(),
        client,
        iaid: 1,
        remaining: Some(1),
        lifetime,
        closed_for: None,
    };
    let done = match command {
        Command::Open(request, reply) => {
            let client = request.client.unwrap_or_default();
            reply
                .send(match request.name {
                    Some(code) => Err(problem(&code)),
                    None => Ok(lease(FLOW, client, request.lifetime.unwrap_or(0))),
                })
                .is_ok()
        }
        Command::Renew(address, lifetime, reply) => {
            reply.send(Ok(lease(address, String::new(), lifetime.unwrap_or(0)))).is_ok()
        }
        Command::Close(FLOW, reply) => reply.send(Ok(lease(FLOW, String::new(), 0))).is_ok(),
        Command::Close(_, reply) => reply.send(Err(problem("no-such-flow"))).is_ok(),
        Command::Flows(reply) => reply.send(Ok(vec![])).is_ok(),
        Command::Flow(_, reply) => reply.send(Err(problem("no-such-flow"))).is_ok(),
        Command::Group(command) => answer_group(command),
        Command::Entries(reply) => reply.send(Ok(vec![])).is_ok(),
        Command::Verify(repair, reply) => {
            reply.send(Ok(Verification { ok: repair, compared: 1, differences: vec![] })).is_ok()
        }
        Command::Trace(request, reply) => {
            let verdict = format!("{} by {}", request.frame.len(), request.port);
            reply
                .send(Ok(Trace {
                    steps: vec![],
                    verdict,
                    sentence: String::new(),
                    egress: None,
                    sent: None,
                    copies: vec![],
                }))
                .is_ok()
        }
        // Never answered: the way back is dropped.
        Command::Status(_) => true,
    };
    assert!(done, "somebody waits for the answer");
}

/// Says by the name what was understood.
fn answer_group(command: GroupCommand) -> bool {
    let group = |address: Mac, name: String| GroupView {
        address: address.to_string(),
        slot: 1,
        group: 1,
        name: Some(name),
        port: "p1".into(),
        rate: None,
        packets: 0,
        bytes: 0,
        receivers: vec![],
        client: String::new(),
        iaid: 1,
        remaining: None,
        lifetime: u32::MAX,
    };
    match command {
        GroupCommand::Open(open, reply) => reply.send(Ok(group(FLOW, open.receivers.join(" ")))).is_ok(),
        GroupCommand::All(reply) => reply.send(Ok(vec![])).is_ok(),
        GroupCommand::One(address, reply) => reply.send(Ok(group(address, "one".into()))).is_ok(),
        GroupCommand::Add(address, receivers, reply) => reply.send(Ok(group(address, receivers.join(" ")))).is_ok(),
        GroupCommand::Remove(address, receiver, reply) => reply.send(Ok(group(address, receiver))).is_ok(),
        GroupCommand::Close(address, reply) => reply.send(Ok(group(address, "closed".into()))).is_ok(),
    }
}

#[tokio::test]
async fn each_method_for_groups_reaches_its_command() {
    let interface = Interface::start().await;
    let mut client = interface.client().await;
    let name = |group: GroupView| (group.address, group.name.unwrap_or_default());
    let (of_flow, of_nobody) = (FLOW.to_string(), NOBODY.to_string());
    let open = OpenGroup { receivers: vec!["10.0.0.1".into(), "02:00:00:00:00:05@p2".into()], ..OpenGroup::default() };
    let opened = name(client.open_group(&open).await.expect("opened"));
    assert_eq!(opened, (of_flow.clone(), "10.0.0.1 02:00:00:00:00:05@p2".into()));
    assert!(client.groups().await.expect("listed").is_empty());
    assert_eq!(name(client.group(NOBODY).await.expect("shown")), (of_nobody.clone(), "one".into()));
    let added = client.add_receivers(NOBODY, vec!["fd00::1".into()]).await.expect("added");
    assert_eq!(name(added), (of_nobody, "fd00::1".into()));
    let odd = "02:00:00:00:00:05@a#b?c%d";
    assert_eq!(name(client.remove_receiver(FLOW, odd).await.expect("removed")), (of_flow.clone(), odd.into()));
    assert_eq!(name(client.close_group(FLOW).await.expect("closed")), (of_flow, "closed".into()));
}

#[tokio::test]
async fn each_method_of_the_client_reaches_its_command() {
    let interface = Interface::start().await;
    let mut client = interface.client().await;
    let lease = client.open(&OpenFlow { lifetime: Some(60), ..OpenFlow::default() }).await.expect("opened");
    assert_eq!((lease.addresses, lease.lifetime), (vec![FLOW.to_string()], 60));
    assert_eq!(client.renew(NOBODY, Some(90)).await.expect("renewed").lifetime, 90);
    assert_eq!(client.close(FLOW).await.expect("closed").addresses, [FLOW.to_string()]);
    assert!(client.flows().await.expect("listed").is_empty());
    assert!(client.table().await.expect("dumped").is_empty());
    assert!(client.verify(true).await.expect("verified").ok);
    assert!(!client.verify(false).await.expect("verified").ok);
    let frame = TraceRequest { port: "p1".into(), frame: "00".repeat(65_536) };
    assert_eq!(client.trace(&frame).await.expect("traced").verdict, "131072 by p1");
    let error = client.flow(NOBODY).await.expect_err("there is none");
    assert!(matches!(&error, ClientError::Problem(problem) if problem.code == "no-such-flow"), "{error}");
    assert_eq!(error.exit_code(), crate::exit::CONFLICT);
}

#[tokio::test]
async fn a_client_without_a_name_is_its_process() {
    let interface = Interface::start().await;
    let mut client = interface.client().await;
    let expected = process_name(std::process::id() as i32);
    assert!(!expected.ends_with(" of 0"), "{expected}");
    assert_eq!(client.open(&OpenFlow::default()).await.expect("opened").client, expected);
    let named = OpenFlow { client: Some("me".into()), ..OpenFlow::default() };
    assert_eq!(client.open(&named).await.expect("opened").client, "me");
}

#[tokio::test]
async fn problems_have_their_status() {
    let interface = Interface::start().await;
    let expected = [
        ("invalid", 400),
        ("denied", 403),
        ("no-such-port", 404),
        ("quota", 409),
        ("conflict", 409),
        ("full", 503),
        ("store", 503),
        ("anything", 500),
    ];
    for (code, status) in expected {
        let body = format!(r#"{{"port": "p1", "name": "{code}"}}"#);
        let (found, problem) = interface.raw(&request("POST", "/v1/flows", &body)).await;
        assert_eq!((found, &problem["code"]), (status, &code.into()));
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_request_the_answer_is_a_problem() {
    let interface = Interface::start().await;
    let large = format!(r#"{{"port": "p1", "frame": "{}"}}"#, "0".repeat(BODY_MAX));
    let expected = [
        ("POST", "/v1/flows", "{", 400, "invalid"),
        ("POST", "/v1/flows", r#"{"port": "p1", "prot": 1}"#, 400, "invalid"),
        ("POST", "/v1/trace", &large, 413, "too-large"),
        ("GET", "/v1/flows/nobody", "", 400, "invalid"),
        ("POST", "/v1/groups", r#"{"port": "p1", "receiver": "10.0.0.1"}"#, 400, "invalid"),
        ("DELETE", "/v1/groups/nobody/receivers/10.0.0.1", "", 400, "invalid"),
        ("POST", "/v1/table/verify?repair=perhaps", "", 400, "invalid"),
        ("GET", "/v2", "", 404, "no-such-path"),
        ("PUT", "/v1/flows", "", 405, "no-such-method"),
        ("DELETE", "/v1/flows/a2:f1:00:00:00:08", "", 404, "no-such-flow"),
        ("GET", "/v1/status", "", 503, "stopping"),
    ];
    for (method, path, body, status, code) in expected {
        let (found, problem) = interface.raw(&request(method, path, body)).await;
        assert_eq!((found, &problem["code"]), (status, &code.into()), "{method} {path}: {problem}");
        assert!(problem["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
}

#[tokio::test]
async fn the_socket_is_root_s_alone_until_others_have_a_role() {
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let interface = Interface::start().await;
    assert_eq!(mode(&interface.socket()), 0o600);
    assert_eq!(mode(interface.socket().parent().expect("a directory")) & 0o022, 0);
    let users = [(7, Role::Observe)].into();
    let shared = Interface::for_users(AccessConfig { users, ..AccessConfig::default() }).await;
    assert_eq!(mode(&shared.socket()), 0o666);
}

#[test]
fn every_operation_says_which_role_it_takes() {
    let description = serde_json::to_value(routes_and_description().1).expect("JSON");
    let all: Vec<_> = operations(&description).collect();
    assert!(all.len() >= 14, "{} operations", all.len());
    for (path, method, operation) in all {
        let role = role_of(operation).unwrap_or_else(|| panic!("{method} {path} needs: security((\"role\" = [..]))"));
        // Who only observes changes nothing: what is not a question takes more.
        let asks = method == "get" || ["/v1/table/verify", "/v1/trace"].contains(&path);
        assert_eq!(role == Role::Observe, asks, "{method} {path} takes {role:?}");
    }
}

#[tokio::test]
async fn a_socket_is_taken_over_from_a_dead_switch_but_not_from_a_live_one() {
    let interface = Interface::start().await;
    let doors = |socket| Doors { socket, access: AccessConfig::default(), remote: None };
    let second = serve(doors(interface.socket()), mpsc::channel(1).0).await;
    assert!(matches!(second, Err(ServeError::Running { .. })), "{second:?}");

    let stale = interface.directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).expect("a socket"));
    let (commands, received) = mpsc::channel(1);
    let at_stale = doors(stale.clone());
    let served = tokio::spawn(async move { serve(at_stale, commands).await });
    timeout(Duration::from_secs(5), async {
        while UnixStream::connect(&stale).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("it listens");
    drop(received);
    timeout(Duration::from_secs(5), served).await.expect("ends with the switch").expect("ran").expect("well");
    assert!(!stale.exists(), "the socket goes with the switch");
}

/// `UPDATE_DOCS=1 cargo test -p flowlane` writes it anew.
#[tokio::test]
async fn the_description_is_the_one_that_is_published() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let made = routes_and_description().1.to_pretty_json().expect("JSON") + "\n";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, &made).expect("written");
    }
    assert_eq!(fs::read_to_string(path).expect("the description"), made);
    let interface = Interface::start().await;
    let (status, served) = interface.raw(&request("GET", "/openapi.json", "")).await;
    assert_eq!(status, 200);
    assert_eq!(served, serde_json::from_str::<serde_json::Value>(&made).expect("JSON"));
}
