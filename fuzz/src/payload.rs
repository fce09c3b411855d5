//! DHCPv6 payloads: any octets, or a message near enough to a right one that it gets past the first checks.

use bolero::{TypeGenerator, produce};
use flowlane_dhcp6::{Duid, ENTERPRISE};
use flowlane_wire::{Block, Mac, SlotIndex};

/// The DUIDs that clients and servers of the targets have.
const CLIENT: [u8; 16] = [1; 16];
pub const SERVER: [u8; 16] = [2; 16];

pub fn client() -> Duid {
    Duid::from_uuid(CLIENT)
}

/// The block of the targets' server: small, so that it runs full.
pub fn block() -> Block {
    Block::new(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 16, 32).expect("a good block")
}

#[derive(Clone, Debug, TypeGenerator)]
pub enum Payload {
    Octets(#[generator(produce::<Vec<u8>>().with().len(0usize..=300))] Vec<u8>),
    Message(Message),
}

#[derive(Clone, Debug, TypeGenerator)]
pub struct Message {
    #[generator(1u8..=13)]
    pub kind: u8,
    pub transaction: [u8; 3],
    /// The identifiers are left out rarely enough.
    #[generator(0u8..8)]
    without: u8,
    server: bool,
    rapid_commit: bool,
    #[generator(produce::<Vec<Ia>>().with().len(0usize..=9))]
    ias: Vec<Ia>,
    #[generator(produce::<Vec<Other>>().with().len(0usize..=2))]
    others: Vec<Other>,
    /// Octets put elsewhere into the whole.
    #[generator(produce::<Vec<(u16, u8)>>().with().len(0usize..=1))]
    changes: Vec<(u16, u8)>,
}

#[derive(Clone, Debug, TypeGenerator)]
struct Ia {
    #[generator(1u8..4)]
    iaid: u8,
    t1: u16,
    t2: u16,
    address: Option<Address>,
    status: Option<u8>,
    flow: Option<Flow>,
    quadrants: Option<Vec<(u8, u8)>>,
}

#[derive(Clone, Debug, TypeGenerator)]
struct Address {
    kind: Place,
    #[generator(0u32..20)]
    extra: u32,
    valid_lifetime: u32,
}

#[derive(Clone, Debug, TypeGenerator)]
enum Place {
    /// The client has no wish.
    Unspecified,
    Ours(#[generator(0u8..2)] u8, u8),
    Anywhere([u8; 6]),
}

#[derive(Clone, Debug, TypeGenerator)]
struct Flow {
    destination: Option<[u8; 4]>,
    rate: Option<u64>,
    source: Option<bool>,
    name: Option<char>,
    hop_limit: Option<u8>,
    /// The client, the server or somebody else; sometimes not whole.
    crossed: Option<(u8, bool)>,
    restore: Option<(u8, u8)>,
    /// A wish for a way, a path, a number of paths.
    way: (bool, Option<u8>, Option<u8>),
}

#[derive(Clone, Debug, TypeGenerator)]
struct Other {
    #[generator(0u16..160)]
    code: u16,
    value: Vec<u8>,
}

impl Payload {
    pub fn octets(&self) -> Vec<u8> {
        match self {
            Self::Octets(octets) => octets.clone(),
            Self::Message(message) => message.octets(),
        }
    }
}

impl Message {
    pub fn octets(&self) -> Vec<u8> {
        let mut octets = [&[self.kind], &self.transaction[..]].concat();
        if self.without != 0 {
            octets.extend(option(1, client().as_bytes()));
        }
        if self.server {
            octets.extend(option(2, Duid::from_uuid(SERVER).as_bytes()));
        }
        if self.rapid_commit {
            octets.extend(option(14, &[]));
        }
        octets.extend(self.ias.iter().flat_map(Ia::octets));
        octets.extend(self.others.iter().flat_map(|other| option(other.code, &other.value)));
        for (place, value) in &self.changes {
            let place = usize::from(*place) % octets.len();
            octets[place] = *value;
        }
        octets
    }
}

impl Ia {
    fn octets(&self) -> Vec<u8> {
        let mut value = u32::from(self.iaid).to_be_bytes().to_vec();
        value.extend(u32::from(self.t1).to_be_bytes());
        value.extend(u32::from(self.t2).to_be_bytes());
        value.extend(self.address.iter().flat_map(Address::octets));
        value.extend(self.status.iter().flat_map(|status| option(13, &[0, *status % 8])));
        value.extend(self.flow.iter().flat_map(Flow::octets));
        value.extend(
            self.quadrants
                .iter()
                .flat_map(|all| option(140, &all.iter().flat_map(|(a, b)| [*a, *b]).collect::<Vec<_>>())),
        );
        option(138, &value)
    }
}

impl Address {
    fn octets(&self) -> Vec<u8> {
        let mac = match self.kind {
            Place::Unspecified => Mac::default(),
            Place::Ours(tag, slot) => block().address(tag.into(), SlotIndex(slot.into())).mac(),
            Place::Anywhere(octets) => Mac(octets),
        };
        let mut value = vec![0, 1, 0, 6];
        value.extend(mac.0);
        value.extend(self.extra.to_be_bytes());
        value.extend(self.valid_lifetime.to_be_bytes());
        option(139, &value)
    }
}

impl Flow {
    fn octets(&self) -> Vec<u8> {
        let mut value = ENTERPRISE.to_be_bytes().to_vec();
        value.extend(self.destination.iter().flat_map(|address| option(1, address)));
        value.extend(self.rate.iter().flat_map(|rate| option(2, &rate.to_be_bytes())));
        value.extend(self.source.iter().flat_map(|source| option(3, &[u8::from(*source)])));
        value.extend(self.name.iter().flat_map(|name| option(4, name.to_string().as_bytes())));
        value.extend(self.hop_limit.iter().flat_map(|hop_limit| option(5, &[*hop_limit % 4])));
        value.extend(self.crossed.iter().flat_map(|(last, cut)| {
            let crossed = [CLIENT, [last % 4; 16]].concat();
            option(6, &crossed[usize::from(*cut)..])
        }));
        value.extend(self.restore.iter().flat_map(|(kind, value)| option(7, &[kind % 4, value % 70])));
        let (only_with_a_way, path, paths) = self.way;
        value.extend(only_with_a_way.then(|| option(8, &[])).into_iter().flatten());
        value.extend(path.iter().flat_map(|path| option(9, &[*path])));
        value.extend(paths.iter().flat_map(|paths| option(10, &[*paths])));
        option(17, &value)
    }
}

/// RFC 9915 section 21.1.
fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).expect("a short value");
    [&code.to_be_bytes(), &len.to_be_bytes(), value].concat()
}
