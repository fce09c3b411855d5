//! Golden vectors and round trips.

use crate::{client_id, example, hex, message, server_id};
use flowlane_allot::{Field, SwitchId};
use flowlane_dhcp6::{
    DhcpOption, ENTERPRISE, FlowOption, IaLl, LlAddr, Message, MessageType, QuadrantPreference, RawOption, Status,
    StatusCode, TransactionId,
};
use flowlane_wire::{Mac, Restore};
use proptest::prelude::*;

fn backup() -> FlowOption {
    FlowOption {
        destination: Some([192, 0, 2, 7].into()),
        rate: Some(10_000_000),
        field: Some(Field::Destination),
        name: Some("backup".into()),
        ..FlowOption::default()
    }
}

fn assert_golden(octets: &[u8], message: &Message) {
    assert_eq!(Message::parse(octets).unwrap(), *message);
    assert_eq!(message.emit().unwrap(), octets);
}

#[test]
fn the_documented_solicit_asks_for_16_addresses_with_rapid_commit() {
    let ia = IaLl {
        iaid: 1,
        t1: 0,
        t2: 0,
        options: vec![DhcpOption::LlAddr(LlAddr::ethernet(Mac([0; 6]), 15, 0)), DhcpOption::Flow(backup())],
    };
    let options = [
        client_id(),
        DhcpOption::ElapsedTime(0),
        DhcpOption::OptionRequest(vec![82]),
        DhcpOption::RapidCommit,
        DhcpOption::IaLl(ia),
    ];
    assert_golden(&example("solicit"), &message(MessageType::Solicit, options));
}

#[test]
fn the_documented_reply_grants_16_addresses_for_an_hour() {
    let lladdr = LlAddr::ethernet(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 15, 3600);
    let ia =
        IaLl { iaid: 1, t1: 1800, t2: 2880, options: vec![DhcpOption::LlAddr(lladdr), DhcpOption::Flow(backup())] };
    let options = [client_id(), server_id(), DhcpOption::RapidCommit, DhcpOption::IaLl(ia)];
    assert_golden(&example("reply"), &message(MessageType::Reply, options));
}

#[test]
fn the_ia_ll_of_rfc_8947_has_its_fields_where_an_independent_encoder_put_them() {
    // Made with dhcproto as an unknown option: 16 addresses for an hour.
    let octets = hex("07 c0ffee 008a0022 00000001 00000708 00000b40 008b0012 0001 0006 a2f100000000 0000000f 00000e10");
    let lladdr = LlAddr::ethernet(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 15, 3600);
    let ia = IaLl { iaid: 1, t1: 1800, t2: 2880, options: vec![DhcpOption::LlAddr(lladdr)] };
    assert_golden(&octets, &message(MessageType::Reply, [DhcpOption::IaLl(ia)]));
}

#[test]
fn a_refusal_is_a_status_code_inside_the_ia_ll() {
    let octets = hex("02 c0ffee 008a 0014 00000007 00000000 00000000 000d 0004 0002 6e6f");
    let status = DhcpOption::StatusCode(Status::new(StatusCode::NoAddrsAvail, "no"));
    let ia = IaLl { iaid: 7, t1: 0, t2: 0, options: vec![status] };
    assert_golden(&octets, &message(MessageType::Advertise, [DhcpOption::IaLl(ia)]));
}

#[test]
fn a_closed_lease_has_the_status_of_rfc_5007() {
    let octets = hex("07 c0ffee 008a 0014 00000007 00000000 00000000 000d 0004 000a 6e6f");
    let status = DhcpOption::StatusCode(Status::new(StatusCode::NotAllowed, "no"));
    let ia = IaLl { iaid: 7, t1: 0, t2: 0, options: vec![status] };
    assert_golden(&octets, &message(MessageType::Reply, [DhcpOption::IaLl(ia)]));
}

#[test]
fn a_quad_option_of_rfc_8948_lists_quadrants_with_preferences() {
    let octets = hex("01 c0ffee 008a 0014 00000001 00000000 00000000 008c 0004 00 ff 03 01");
    let wishes =
        vec![QuadrantPreference { quadrant: 0, preference: 255 }, QuadrantPreference { quadrant: 3, preference: 1 }];
    let ia = IaLl { iaid: 1, t1: 0, t2: 0, options: vec![DhcpOption::Quad(wishes)] };
    assert_golden(&octets, &message(MessageType::Solicit, [DhcpOption::IaLl(ia)]));
}

#[test]
fn a_flow_to_an_ipv6_host_by_its_source_field_says_so_in_the_vendor_option() {
    let octets = hex("03 c0ffee 0011 001d f10a0001 0001 0010 20010db8000000000000000000000007 0003 0001 01");
    let flow = FlowOption {
        destination: Some("2001:db8::7".parse().unwrap()),
        field: Some(Field::Source),
        ..FlowOption::default()
    };
    assert_golden(&octets, &message(MessageType::Request, [DhcpOption::Flow(flow)]));
}

#[test]
fn a_host_says_that_it_needs_a_way_and_which_of_several() {
    let octets = hex("03 c0ffee 0011 000d f10a0001 0008 0000 0009 0001 02");
    let flow = FlowOption { only_with_a_way: true, path: Some(2), ..FlowOption::default() };
    assert_golden(&octets, &message(MessageType::Request, [DhcpOption::Flow(flow)]));
    let octets = hex("07 c0ffee 0011 000e f10a0001 0009 0001 02 000a 0001 03");
    let flow = FlowOption { path: Some(2), paths: Some(3), ..FlowOption::default() };
    assert_golden(&octets, &message(MessageType::Reply, [DhcpOption::Flow(flow)]));
}

#[test]
fn a_switch_that_asks_for_a_flow_says_where_it_has_come_by() {
    let octets = hex("03 c0ffee 0011 0033 f10a0001 \
                      0005 0001 0e \
                      0006 0020 00112233445556778899aabbccddeeff 5f1e0c8a7b2d4e3f9a6b1c2d3e4f5a6b \
                      0007 0002 01 03");
    let crossed = vec![SwitchId(crate::SERVER), SwitchId(crate::CLIENT)];
    let flow = FlowOption {
        hop_limit: Some(14),
        crossed: Some(crossed),
        restore: Some(Restore::Clear(3)),
        ..FlowOption::default()
    };
    assert_golden(&octets, &message(MessageType::Request, [DhcpOption::Flow(flow)]));
}

#[test]
fn another_vendors_option_and_unknown_options_pass_unread() {
    // Enterprise 9; then IA_NA (3) and an option of a code that nobody has.
    let octets = hex("01 c0ffee 0011 0007 00000009 000102 0003 000c 000000010000000000000000 ffff 0000");
    let parsed = Message::parse(&octets).unwrap();
    assert!(parsed.options.iter().all(|option| matches!(option, DhcpOption::Unknown(_))), "{parsed:?}");
    assert_eq!(parsed.emit().unwrap(), octets);
}

#[test]
fn unknown_sub_options_of_a_flow_are_kept() {
    let octets = hex("01 c0ffee 0011 000d f10a0001 00c8 0001 40 00c9 0000");
    let parsed = Message::parse(&octets).unwrap();
    let other = vec![RawOption { code: 200, data: vec![64] }, RawOption { code: 201, data: vec![] }];
    assert_eq!(parsed.options, [DhcpOption::Flow(FlowOption { other, ..FlowOption::default() })]);
    assert_eq!(parsed.emit().unwrap(), octets);
}

#[test]
fn an_address_of_another_kind_is_parsed_and_is_no_mac() {
    // Link-layer type 32 (InfiniBand), 8 octets.
    let octets =
        hex("01 c0ffee 008a 0024 00000001 00000000 00000000 008b 0014 0020 0008 0102030405060708 00000000 00000000");
    let parsed = Message::parse(&octets).unwrap();
    let [DhcpOption::IaLl(ia)] = parsed.options.as_slice() else { panic!("{parsed:?}") };
    assert_eq!(ia.blocks().map(LlAddr::mac).collect::<Vec<_>>(), [None]);
    assert_eq!(parsed.emit().unwrap(), octets);
}

#[test]
fn an_option_of_65536_octets_is_not_emitted() {
    let long = DhcpOption::Unknown(RawOption { code: 99, data: vec![0; 65_536] });
    let error = message(MessageType::Solicit, [long]).emit().unwrap_err();
    assert_eq!((error.option, error.length), (99, 65_536));
}

#[test]
fn a_name_is_cut_at_a_character_when_it_is_longer_than_64_octets() {
    let spec = flowlane_allot::FlowSpec { name: Some("ä".repeat(33)), ..Default::default() };
    assert_eq!(FlowOption::new(&spec).name, Some("ä".repeat(32)));
    let spec = flowlane_allot::FlowSpec { name: Some(format!("x{}", "ä".repeat(33))), ..Default::default() };
    assert_eq!(FlowOption::new(&spec).name, Some(format!("x{}", "ä".repeat(31))));
}

fn raw() -> impl Strategy<Value = RawOption> {
    (200u16.., proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(code, data)| RawOption { code, data })
}

fn duid() -> impl Strategy<Value = flowlane_dhcp6::Duid> {
    proptest::collection::vec(any::<u8>(), 3..=130).prop_map(|octets| flowlane_dhcp6::Duid::new(octets).unwrap())
}

fn status() -> impl Strategy<Value = DhcpOption> {
    (any::<u16>(), "\\PC{0,20}")
        .prop_map(|(code, text)| DhcpOption::StatusCode(Status::new(StatusCode::from_u16(code), text)))
}

fn flow() -> impl Strategy<Value = DhcpOption> {
    let field = prop_oneof![Just(Field::Destination), Just(Field::Source)];
    let name = proptest::option::of("\\PC{0,16}");
    let crossed = proptest::collection::vec(any::<[u8; 16]>().prop_map(SwitchId), 0..4);
    let restore =
        prop_oneof![Just(Restore::Keep), (0u8..64).prop_map(Restore::Clear), (0u8..64).prop_map(Restore::Set)];
    (
        any::<Option<std::net::IpAddr>>(),
        any::<Option<u64>>(),
        proptest::option::of(field),
        name,
        any::<Option<u8>>(),
        proptest::option::of(crossed),
        proptest::option::of(restore),
        any::<(bool, Option<u8>, Option<u8>)>(),
        proptest::collection::vec(raw(), 0..3),
    )
        .prop_map(|(destination, rate, field, name, hop_limit, crossed, restore, way, other)| {
            let (only_with_a_way, path, paths) = way;
            DhcpOption::Flow(FlowOption {
                destination,
                rate,
                field,
                name,
                hop_limit,
                crossed,
                restore,
                only_with_a_way,
                path,
                paths,
                other,
            })
        })
}

fn lladdr() -> impl Strategy<Value = DhcpOption> {
    let octets = proptest::collection::vec(any::<u8>(), 0..20);
    (any::<u16>(), octets, any::<u32>(), any::<u32>(), proptest::collection::vec(raw(), 0..3)).prop_map(
        |(link_type, address, extra, valid_lifetime, options)| {
            DhcpOption::LlAddr(LlAddr { link_type, address, extra, valid_lifetime, options })
        },
    )
}

fn quad() -> impl Strategy<Value = DhcpOption> {
    let wish = any::<(u8, u8)>().prop_map(|(quadrant, preference)| QuadrantPreference { quadrant, preference });
    proptest::collection::vec(wish, 0..6).prop_map(DhcpOption::Quad)
}

/// Each of the options or not, in this order: none twice that may stand once.
fn some_of(options: Vec<BoxedStrategy<DhcpOption>>) -> impl Strategy<Value = Vec<DhcpOption>> {
    let options: Vec<_> = options.into_iter().map(proptest::option::of).collect();
    options.prop_map(|options| options.into_iter().flatten().collect())
}

fn ia_ll() -> impl Strategy<Value = DhcpOption> {
    let options = vec![
        lladdr().boxed(),
        lladdr().boxed(),
        status().boxed(),
        quad().boxed(),
        flow().boxed(),
        raw().prop_map(DhcpOption::Unknown).boxed(),
    ];
    (any::<u32>(), any::<u32>(), any::<u32>(), some_of(options))
        .prop_map(|(iaid, t1, t2, options)| DhcpOption::IaLl(IaLl { iaid, t1, t2, options }))
}

pub(crate) fn any_message() -> impl Strategy<Value = Message> {
    let options = vec![
        duid().prop_map(DhcpOption::ClientId).boxed(),
        duid().prop_map(DhcpOption::ServerId).boxed(),
        proptest::collection::vec(any::<u16>(), 0..5).prop_map(DhcpOption::OptionRequest).boxed(),
        any::<u8>().prop_map(DhcpOption::Preference).boxed(),
        any::<u16>().prop_map(DhcpOption::ElapsedTime).boxed(),
        status().boxed(),
        Just(DhcpOption::RapidCommit).boxed(),
        flow().boxed(),
        any::<u32>().prop_map(DhcpOption::SolMaxRt).boxed(),
        ia_ll().boxed(),
        ia_ll().boxed(),
        raw().prop_map(DhcpOption::Unknown).boxed(),
    ];
    let kinds =
        prop_oneof![Just(MessageType::Solicit), Just(MessageType::Reply), Just(MessageType::InformationRequest)];
    (kinds, any::<[u8; 3]>(), some_of(options)).prop_map(|(kind, id, options)| Message {
        kind,
        transaction: TransactionId(id),
        options,
    })
}

/// Octets that often parse: a good message with a few octets changed.
pub(crate) fn nearly_a_message() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4);
    (any_message(), changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(message, changes, cut, shorten)| {
            let mut octets = message.emit().unwrap();
            for (at, value) in changes {
                let at = at.index(octets.len());
                octets[at] = value;
            }
            if shorten {
                octets.truncate(cut.index(octets.len()));
            }
            octets
        },
    )
}

fn survives(octets: &[u8]) {
    if let Ok(parsed) = Message::parse(octets) {
        let emitted = parsed.emit().unwrap();
        // The sub-options of a flow may come out in another order: the same length and the same meaning.
        assert_eq!(emitted.len(), octets.len());
        assert_eq!(Message::parse(&emitted), Ok(parsed));
    }
}

proptest! {
    #[test]
    fn a_message_survives_the_wire(message in any_message()) {
        prop_assert_eq!(Message::parse(&message.emit().unwrap()), Ok(message));
    }

    #[test]
    fn arbitrary_octets_never_panic_and_what_parses_is_emitted_the_same(
        octets in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        survives(&octets);
    }

    #[test]
    fn damaged_messages_never_panic_and_what_parses_is_emitted_the_same(octets in nearly_a_message()) {
        survives(&octets);
    }
}

#[test]
fn the_enterprise_number_is_the_documented_one() {
    assert!(include_str!("../../../../docs/dhcpv6.md").contains(&format!("`{ENTERPRISE:#x}`")));
}
