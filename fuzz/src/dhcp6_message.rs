//! A DHCPv6 message of any octets.

use crate::payload::Payload;
use bolero::check;
use flowlane_dhcp6::Message;

#[test]
fn a_message_that_parses_is_emitted_to_an_equal_one() {
    check!().with_type::<Payload>().for_each(|payload| {
        let Ok(message) = Message::parse(&payload.octets()) else { return };
        let emitted = message.emit().expect("no longer than it came");
        assert_eq!(Message::parse(&emitted).as_ref(), Ok(&message));
    });
}
