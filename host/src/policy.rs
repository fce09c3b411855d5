//! Who may have flows on this host, and which.

use crate::command::Peer;
use flowlane_client::protocol::{PATHS_MAX, Problem, ProblemCode, RunRequest, Wishes};
use nix::unistd::{Gid, Group, Uid, User};
use std::net::IpAddr;

/// The group whose members may have flows where the administrator has said nothing else.
pub const DEFAULT_GROUP: &str = "flowlane";

/// The longest name in octets: what the network takes (docs/dhcpv6.md, sub-option 4), without the process number that is
/// added to it.
pub const NAME_MAX: usize = 48;

/// The most destinations that one request names.
pub const DESTINATIONS_MAX: usize = 64;

/// The longest command in characters that is kept for people.
const COMMAND_MAX: usize = 256;

/// What users are allowed. Root may do everything, and is asked for nothing but sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Users who may have flows, by number.
    pub users: Vec<u32>,
    /// Groups whose members may have flows, by number.
    pub groups: Vec<u32>,
    /// The highest rate of a user's flow in bits per second; one for which none was asked is metered at it.
    pub max_rate: Option<u64>,
    /// How many paths each destination may have, 1 to [`PATHS_MAX`].
    pub max_paths: u8,
    /// Users send nothing outside of flows, whether they asked for it or not.
    pub require: bool,
}

/// Who asks, with all his groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The process and its user.
    pub peer: Peer,
    /// The groups that it is a member of.
    pub groups: Vec<u32>,
}

impl Default for Policy {
    /// The members of the group [`DEFAULT_GROUP`], where there is one.
    fn default() -> Self {
        let group = Group::from_name(DEFAULT_GROUP).ok().flatten();
        let groups = group.map(|group| group.gid.as_raw()).into_iter().collect();
        Self { users: Vec::new(), groups, max_rate: None, max_paths: PATHS_MAX, require: false }
    }
}

impl Policy {
    /// Whether a caller may have anything.
    pub fn allows(&self, caller: &Caller) -> bool {
        let user = caller.peer.user;
        let member = || self.groups.iter().any(|group| caller.groups.contains(group));
        user == 0 || self.users.contains(&user) || member()
    }

    /// What a user is told who may have nothing. Asks the system's database of users, which may take its time.
    pub fn refusal(&self, user: u32) -> Problem {
        let name = User::from_uid(Uid::from_raw(user)).ok().flatten().map(|user| user.name);
        let who = name.clone().map_or_else(|| format!("user {user}"), |name| format!("user {name}"));
        let remedy = match self.groups.iter().find_map(|gid| Group::from_gid(Gid::from_raw(*gid)).ok().flatten()) {
            Some(Group { name: group, .. }) => {
                let name = name.unwrap_or_else(|| "NAME".to_owned());
                format!("root allows it by: usermod -aG {group} {name} (and a new login)")
            }
            None => {
                "root allows it by `allow_users` or `allow_groups` in the configuration of `flowlane host`".to_owned()
            }
        };
        denied(format!("{who} may not have flows on this host; {remedy}"))
    }

    /// What a caller gets of what he wishes.
    ///
    /// # Errors
    /// [`ProblemCode::Denied`] where he may not have it, [`ProblemCode::Invalid`] where nobody could.
    pub fn grant(&self, caller: &Caller, wishes: Wishes) -> Result<Wishes, Problem> {
        if !self.allows(caller) {
            return Err(self.refusal(caller.peer.user));
        }
        let wishes = sensible(wishes)?;
        if caller.peer.user == 0 { Ok(wishes) } else { self.limit(wishes) }
    }

    /// The same for a program that is about to be run.
    ///
    /// # Errors
    /// As [`Policy::grant`].
    pub fn grant_run(&self, caller: &Caller, request: RunRequest) -> Result<RunRequest, Problem> {
        let wishes = self.grant(caller, request.wishes)?;
        let printable = |character: char| if character.is_control() { ' ' } else { character };
        let command = request.command.chars().map(printable).take(COMMAND_MAX).collect();
        Ok(RunRequest { command, wishes })
    }

    fn limit(&self, wishes: Wishes) -> Result<Wishes, Problem> {
        if let Some((asked, max)) = wishes.rate.zip(self.max_rate).filter(|(asked, max)| asked > max) {
            return Err(denied(format!("{asked} bit/s is more than the {max} bit/s that this host allows a flow")));
        }
        if wishes.paths > self.max_paths {
            let (asked, max) = (wishes.paths, self.max_paths);
            return Err(denied(format!("{asked} paths are more than the {max} that this host allows a destination")));
        }
        Ok(Wishes { rate: wishes.rate.or(self.max_rate), require: wishes.require || self.require, ..wishes })
    }
}

/// What only root may ask.
///
/// # Errors
/// [`ProblemCode::Denied`] for all others.
pub fn root_only(caller: &Caller, what: &str) -> Result<(), Problem> {
    if caller.peer.user == 0 { Ok(()) } else { Err(denied(format!("only root may put {what} into flows"))) }
}

/// Wishes that can come true, with the defaults in place.
fn sensible(wishes: Wishes) -> Result<Wishes, Problem> {
    let name = wishes.name.as_deref().unwrap_or_default();
    if name.len() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(invalid(format!("a name has at most {NAME_MAX} octets of UTF-8, without control characters")));
    }
    if wishes.paths > PATHS_MAX {
        return Err(invalid(format!("a destination has at most {PATHS_MAX} paths")));
    }
    if wishes.rate == Some(0) {
        return Err(invalid("a rate is at least 1 bit/s".to_owned()));
    }
    if wishes.to.len() > DESTINATIONS_MAX {
        return Err(invalid(format!(
            "at most {DESTINATIONS_MAX} destinations can be named; others are found by themselves"
        )));
    }
    if let Some(local) = wishes.to.iter().find(|to| is_link_local(to)) {
        return Err(invalid(format!(
            "{local} is of a single link, and does not say of which; its flow is opened by the first packet, without --to"
        )));
    }
    if let Some(nobody) = wishes.to.iter().find(|to| !is_host(to)) {
        return Err(invalid(format!("{nobody} is no destination of a flow: not the address of another host")));
    }
    let to = wishes.to.iter().map(IpAddr::to_canonical).collect();
    Ok(Wishes { paths: wishes.paths.max(1), to, ..wishes })
}

fn is_host(address: &IpAddr) -> bool {
    let address = address.to_canonical();
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(broadcast || address.is_multicast() || address.is_unspecified() || address.is_loopback())
}

/// RFC 4291, section 2.5.6; RFC 3927.
fn is_link_local(address: &IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn denied(message: String) -> Problem {
    Problem { code: ProblemCode::Denied, message }
}

fn invalid(message: String) -> Problem {
    Problem { code: ProblemCode::Invalid, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(user: u32, groups: &[u32]) -> Caller {
        Caller { peer: Peer { pid: 1, user }, groups: groups.to_vec() }
    }

    fn policy() -> Policy {
        Policy { users: vec![1000], groups: vec![50], max_rate: Some(1_000), max_paths: 2, require: false }
    }

    fn code_of(done: Result<Wishes, Problem>) -> Result<Wishes, ProblemCode> {
        done.map_err(|problem| problem.code)
    }

    #[test]
    fn root_users_and_members_of_groups_are_allowed_and_nobody_else() {
        let grant = |caller| code_of(policy().grant(&caller, Wishes::default()));
        for allowed in [caller(0, &[]), caller(1000, &[1]), caller(7, &[1, 50])] {
            assert!(grant(allowed).is_ok());
        }
        assert_eq!(grant(caller(7, &[1, 51])), Err(ProblemCode::Denied));
        assert_eq!(grant(caller(7, &[])), Err(ProblemCode::Denied));
    }

    #[test]
    fn a_refusal_names_the_user_and_what_root_can_do() {
        let Policy { users, .. } = policy();
        let nobody = caller(65534, &[]);
        let by_file = Policy { groups: vec![], users: users.clone(), ..policy() };
        let message = by_file.grant(&nobody, Wishes::default()).expect_err("refused").message;
        assert!(message.starts_with("user nobody may not have flows") && message.contains("allow_users"), "{message}");
        let by_group = Policy { groups: vec![0], users, ..policy() };
        let message = by_group.grant(&nobody, Wishes::default()).expect_err("refused").message;
        assert!(message.contains("usermod -aG root nobody"), "{message}");
    }

    #[test]
    fn users_are_limited_and_root_is_not() {
        let (user, root) = (caller(1000, &[]), caller(0, &[]));
        let fast = Wishes { rate: Some(1_001), ..Wishes::default() };
        assert_eq!(code_of(policy().grant(&user, fast.clone())), Err(ProblemCode::Denied));
        assert_eq!(policy().grant(&root, fast).map(|wishes| wishes.rate), Ok(Some(1_001)));
        let many = Wishes { paths: 3, ..Wishes::default() };
        assert_eq!(code_of(policy().grant(&user, many.clone())), Err(ProblemCode::Denied));
        assert_eq!(policy().grant(&root, many).map(|wishes| wishes.paths), Ok(3));
        let strict = Policy { require: true, ..policy() };
        let granted = strict.grant(&user, Wishes::default()).expect("allowed");
        assert_eq!((granted.rate, granted.paths, granted.require), (Some(1_000), 1, true));
    }

    #[test]
    fn what_nobody_could_have_is_invalid() {
        let root = caller(0, &[]);
        let to = |text: &str| Wishes { to: vec![text.parse().expect("an address")], ..Wishes::default() };
        let name = |name: String| Wishes { name: Some(name), ..Wishes::default() };
        for wishes in [
            to("224.0.0.1"),
            to("ff02::1"),
            to("127.0.0.1"),
            to("::ffff:127.0.0.1"),
            to("255.255.255.255"),
            to("0.0.0.0"),
            to("fe80::1"),
            to("169.254.1.1"),
            name("\x1b[2J".into()),
            name("n".repeat(NAME_MAX + 1)),
            Wishes { rate: Some(0), ..Wishes::default() },
            Wishes { paths: PATHS_MAX + 1, ..Wishes::default() },
            Wishes { to: vec![[192, 0, 2, 1].into(); DESTINATIONS_MAX + 1], ..Wishes::default() },
        ] {
            assert_eq!(code_of(policy().grant(&root, wishes.clone())), Err(ProblemCode::Invalid), "{wishes:?}");
        }
        let mapped = policy().grant(&root, to("::ffff:192.0.2.1")).expect("a host");
        assert_eq!(mapped.to, [IpAddr::from([192, 0, 2, 1])]);
    }

    #[test]
    fn a_command_can_not_disturb_the_terminal_that_it_is_listed_on() {
        let request = RunRequest { command: format!("a\x1b[2J\n{}", "x".repeat(1_000)), ..RunRequest::default() };
        let granted = policy().grant_run(&caller(0, &[]), request).expect("root");
        assert!(granted.command.starts_with("a [2J x") && granted.command.len() == COMMAND_MAX);
    }
}
