//! Messages that are wrong in one way each: every one is refused, with the place and the option.

use crate::codec::{any_message, nearly_a_message};
use crate::table::Table;
use crate::{CLIENT, PEER, block, client_id, hex, server, server_id};
use flowlane_allot::FlowSpec;
use flowlane_dhcp6::{Client, Config, DhcpOption, Duid, Ignore, Message, MessageType, Problem};
use proptest::prelude::{any, prop_assert, proptest};

/// What is wrong, the octets, the offset of the error, the option it names, the problem.
type Case = (&'static str, &'static str, usize, Option<u16>, Problem);

const CORPUS: [Case; 30] = [
    ("nothing at all", "", 0, None, Problem::Truncated { wanted: 1, left: 0 }),
    ("no transaction", "01 c0ff", 1, None, Problem::Truncated { wanted: 3, left: 2 }),
    ("message type 0", "00 c0ffee", 0, None, Problem::UnknownMessage(0)),
    ("message type 36", "24 c0ffee", 0, None, Problem::UnknownMessage(36)),
    ("Relay-forward", "0c 00 0000", 0, None, Problem::Relayed),
    ("Relay-reply", "0d 00 0000", 0, None, Problem::Relayed),
    ("half an option code", "01 c0ffee 00", 4, None, Problem::Truncated { wanted: 2, left: 1 }),
    ("no option length", "01 c0ffee 0001", 6, None, Problem::Truncated { wanted: 2, left: 0 }),
    (
        "option longer than the message",
        "01 c0ffee 0001 0004 0004ab",
        8,
        Some(1),
        Problem::Truncated { wanted: 4, left: 3 },
    ),
    ("client identifier of 2 octets", "01 c0ffee 0001 0002 0004", 8, Some(1), Problem::DuidLength(2)),
    ("empty server identifier", "01 c0ffee 0002 0000", 8, Some(2), Problem::DuidLength(0)),
    ("two client identifiers", "01 c0ffee 0001 0003 0004aa 0001 0003 0004aa", 15, Some(1), Problem::Duplicate),
    ("odd option request", "01 c0ffee 0006 0003 005200", 10, Some(6), Problem::Truncated { wanted: 2, left: 1 }),
    ("empty preference", "02 c0ffee 0007 0000", 8, Some(7), Problem::Truncated { wanted: 1, left: 0 }),
    ("preference of 2 octets", "02 c0ffee 0007 0002 ff00", 9, Some(7), Problem::Trailing { left: 1 }),
    ("elapsed time of 6 octets", "01 c0ffee 0008 0006 000000000000", 10, Some(8), Problem::Trailing { left: 4 }),
    ("status of 1 octet", "07 c0ffee 000d 0001 00", 8, Some(13), Problem::Truncated { wanted: 2, left: 1 }),
    ("status text that is not UTF-8", "07 c0ffee 000d 0003 0000 ff", 10, Some(13), Problem::NotUtf8),
    ("rapid commit with a value", "01 c0ffee 000e 0001 00", 8, Some(14), Problem::Trailing { left: 1 }),
    (
        "vendor option without a number",
        "01 c0ffee 0011 0003 f10a00",
        8,
        Some(17),
        Problem::Truncated { wanted: 4, left: 3 },
    ),
    (
        "IA_LL of 11 octets",
        "01 c0ffee 008a 000b 0000000100000000000000",
        16,
        Some(138),
        Problem::Truncated { wanted: 4, left: 3 },
    ),
    ("IA_LL in an IA_LL", "01 c0ffee 008a 0010 000000010000000000000000 008a 0000", 24, Some(138), Problem::Misplaced),
    ("LLADDR in no IA_LL", "01 c0ffee 008b 0000", 8, Some(139), Problem::Misplaced),
    ("QUAD in no IA_LL", "01 c0ffee 008c 0000", 8, Some(140), Problem::Misplaced),
    (
        "rapid commit in an IA_LL",
        "01 c0ffee 008a 0010 000000010000000000000000 000e 0000",
        24,
        Some(14),
        Problem::Misplaced,
    ),
    (
        "LLADDR whose address runs over its end",
        "01 c0ffee 008a 001a 000000010000000000000000 008b 000a 0001 ffff 000000000000",
        28,
        Some(139),
        Problem::Truncated { wanted: 65_535, left: 6 },
    ),
    (
        "LLADDR without a lifetime",
        "01 c0ffee 008a 001e 000000010000000000000000 008b 000e 0001 0006 000000000000 0000000f",
        38,
        Some(139),
        Problem::Truncated { wanted: 4, left: 0 },
    ),
    (
        "LLADDR with half an option behind it",
        "01 c0ffee 008a 0024 000000010000000000000000 008b 0014 0001 0006 000000000000 0000000f 00000000 00 63",
        44,
        Some(139),
        Problem::Truncated { wanted: 2, left: 0 },
    ),
    (
        "QUAD of odd length",
        "01 c0ffee 008a 0011 000000010000000000000000 008c 0001 00",
        25,
        Some(140),
        Problem::Truncated { wanted: 1, left: 0 },
    ),
    (
        "two status codes in an IA_LL",
        "07 c0ffee 008a 0018 000000010000000000000000 000d 0002 0000 000d 0002 0000",
        30,
        Some(13),
        Problem::Duplicate,
    ),
];

/// The vendor option's value behind its enterprise number, which starts at octet 12.
const FLOWS: [Case; 17] = [
    (
        "destination of 5 octets",
        "0001 0005 c000020700",
        16,
        Some(17),
        Problem::Value("an IP address has 4 or 16 octets"),
    ),
    ("rate of 4 octets", "0002 0004 00989680", 16, Some(17), Problem::Truncated { wanted: 8, left: 4 }),
    ("field 2", "0003 0001 02", 16, Some(17), Problem::Value("the field is 0 (destination) or 1 (source)")),
    ("empty field", "0003 0000", 16, Some(17), Problem::Truncated { wanted: 1, left: 0 }),
    ("field of 2 octets", "0003 0002 0000", 17, Some(17), Problem::Trailing { left: 1 }),
    ("name that is not UTF-8", "0004 0002 c328", 16, Some(17), Problem::NotUtf8),
    ("two rates", "0002 0008 0000000000000001 0002 0008 0000000000000001", 28, Some(17), Problem::Duplicate),
    ("empty hop limit", "0005 0000", 16, Some(17), Problem::Truncated { wanted: 1, left: 0 }),
    ("hop limit of 2 octets", "0005 0002 1010", 17, Some(17), Problem::Trailing { left: 1 }),
    ("half a switch", "0006 0008 0011223344556677", 16, Some(17), Problem::Truncated { wanted: 16, left: 8 }),
    ("restore of 1 octet", "0007 0001 01", 17, Some(17), Problem::Truncated { wanted: 1, left: 0 }),
    (
        "restore to DSCP 64",
        "0007 0002 0240",
        16,
        Some(17),
        Problem::Value("the DSCP is kept (0), cleared (1) or set (2), with a value of 0 to 63"),
    ),
    ("only with a way, of 1 octet", "0008 0001 01", 16, Some(17), Problem::Trailing { left: 1 }),
    ("only with a way, twice", "0008 0000 0008 0000", 20, Some(17), Problem::Duplicate),
    ("empty path", "0009 0000", 16, Some(17), Problem::Truncated { wanted: 1, left: 0 }),
    ("paths of 2 octets", "000a 0002 0202", 17, Some(17), Problem::Trailing { left: 1 }),
    ("sub-option longer than its option", "0008 0004 00", 16, Some(17), Problem::Truncated { wanted: 4, left: 1 }),
];

#[test]
fn every_malformed_message_is_refused_with_its_place_and_option() {
    for (name, octets, offset, option, problem) in CORPUS {
        assert_refused(name, &hex(octets), offset, option, problem);
    }
}

#[test]
fn every_malformed_flow_is_refused_with_its_place() {
    for (name, octets, offset, option, problem) in FLOWS {
        assert_refused(name, &flow(&hex(octets)), offset, option, problem);
    }
}

#[test]
fn a_name_of_65_octets_is_refused_and_one_of_64_is_not() {
    let name = |length: u8| [&[0, 4, 0, length], vec![b'x'; length.into()].as_slice()].concat();
    assert!(Message::parse(&flow(&name(64))).is_ok());
    assert_refused("65", &flow(&name(65)), 16, Some(17), Problem::Value("a name has at most 64 octets"));
}

#[test]
fn a_flow_that_has_crossed_33_switches_is_refused_and_one_of_32_is_not() {
    let crossed = |switches: u16| {
        let length = (16 * switches).to_be_bytes();
        [&[0, 6], length.as_slice(), &vec![7; 16 * usize::from(switches)]].concat()
    };
    assert!(Message::parse(&flow(&crossed(32))).is_ok());
    assert_refused("33", &flow(&crossed(33)), 16, Some(17), Problem::Value("a flow crosses at most 32 switches"));
}

#[test]
fn an_error_names_octet_and_option() {
    let error = Message::parse(&hex("01 c0ffee 0008 0001 00")).unwrap_err();
    assert_eq!(error.to_string(), "octet 8, option 8 (Elapsed Time): 2 octets are announced, 1 are there");
}

#[test]
fn the_server_ignores_every_malformed_message_and_says_why() {
    for (name, octets, _, _, problem) in CORPUS {
        let ignored = server().plan(&hex(octets), PEER).unwrap_err();
        match problem {
            Problem::Relayed => assert_eq!(ignored, Ignore::Relayed, "{name}"),
            _ => assert!(matches!(ignored, Ignore::Malformed(_)), "{name}: {ignored}"),
        }
    }
}

proptest! {
    #[test]
    fn the_server_answers_any_message_with_a_message_or_not_at_all(octets in nearly_a_message(), now in 0..u64::MAX / 2) {
        if let Some(reply) = Table::new(block(), 60).serve(&server(), &octets, PEER, now) {
            prop_assert!(Message::parse(&reply).is_ok());
        }
    }

    #[test]
    fn no_answer_makes_the_client_panic_or_send_without_end(
        message in any_message(), advertise: bool, rapid_commit: bool, renewing in any::<bool>(), now in 0..1u64 << 40,
    ) {
        let (mut client, now) = if renewing { renewing_at(now) } else { (soliciting(now, rapid_commit), now) };
        let question = Message::parse(&client.poll_transmit(now).unwrap()).unwrap();
        let foreign = |option: &DhcpOption| !matches!(option, DhcpOption::ClientId(_) | DhcpOption::ServerId(_));
        let options = [client_id(), server_id()].into_iter().chain(message.options.into_iter().filter(foreign));
        let options = options.map(|option| with_iaid(option, 1)).collect();
        let kind = if advertise { MessageType::Advertise } else { MessageType::Reply };
        let answer = Message { kind, transaction: question.transaction, options }.emit().unwrap();
        // Taken or discarded with a reason: either is right here.
        let _ = client.handle(&answer, now);
        let sent = std::iter::from_fn(|| client.poll_transmit(now)).take(3).count();
        prop_assert!(sent <= 1);
        prop_assert!(client.poll_timeout().is_none_or(|next| next > now));
    }
}

fn soliciting(now: u64, rapid_commit: bool) -> Client {
    let duid = Duid::from_uuid(CLIENT);
    Client::new(Config { duid, iaid: 1, count: 4, spec: FlowSpec::default(), rapid_commit, seed: 1 }, now)
}

/// A client with a lease of a minute, when it is time to renew.
fn renewing_at(now: u64) -> (Client, u64) {
    let mut client = soliciting(now, true);
    let solicit = client.poll_transmit(now).unwrap();
    client.handle(&Table::new(block(), 60).serve(&server(), &solicit, PEER, now).unwrap(), now).unwrap();
    let renewal = client.poll_timeout().unwrap();
    (client, renewal)
}

fn with_iaid(option: DhcpOption, iaid: u32) -> DhcpOption {
    match option {
        DhcpOption::IaLl(ia) => DhcpOption::IaLl(flowlane_dhcp6::IaLl { iaid, ..ia }),
        other => other,
    }
}

fn assert_refused(name: &str, octets: &[u8], offset: usize, option: Option<u16>, problem: Problem) {
    let error = Message::parse(octets).expect_err(name);
    assert_eq!((error.offset, error.option, error.problem), (offset, option, problem), "{name}");
}

fn flow(sub_options: &[u8]) -> Vec<u8> {
    let length = u16::try_from(sub_options.len() + 4).unwrap().to_be_bytes();
    [&hex("01 c0ffee 0011"), length.as_slice(), &hex("f10a0001"), sub_options].concat()
}
