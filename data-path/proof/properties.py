"""What must hold at the end of every path, said in terms of the frame and the tables as they were in the beginning.

Nothing here is taken from the pipeline: the words of the tables, the fields of a frame and the numbers of verdicts are read as
the documentation of `flowlane_tables` and `flowlane_wire` says.
"""

import z3

from machine import term
from switch import SEEN, WORDS

# The kinds of verdicts, as src/lib.rs numbers them.
PASS, MARKED, REPLICATE, FORWARD, RESOLVE, ASK, TO_LINUX, DROP = range(8)
# `End::Backup`: the frame takes the backup of its next hop.
BACKUP = 2
NOT_PLAIN = (1 << 64) - 1

NEVER = 0xFFFF_FFFF
UP, OWN_SOURCE = 1, 2
GROUP_PORT = 0x7FFF
IPV4, IPV6, VLAN, SERVICE_VLAN = 0x0800, 0x86DD, 0x8100, 0x88A8
# From the beginning of the IP header.
TOS, TTL, CHECKSUM, HOP_LIMIT = 1, 8, 10, 7

# Properties by name, in the order in which they are shown.
NAMES = {
    "memory": "no access outside of frame, tables, stack and constants",
    "no panic": "no panic, no trap, no division by zero, no way out of the pipeline",
    "ends": "every path ends",
    "port check": "nothing of a flow goes on but by address and ingress port in the slot's key (claim 19)",
    "lease": "nothing goes on after the lease, of both slots where both addresses are flow addresses",
    "egress": "a frame leaves by the port of its next hop, or of the backup; never by its ingress port, nor by one that is down",
    "addresses": "destination := next hop's, source := flow address or the port's own (claim 17)",
    "octets": "nothing else changes but TTL and checksum at a routed hop, DSCP and checksum where the slot says so",
    "values": "TTL falls by one and is never sent as 0; the DSCP is what the slot says; the checksum changes with the TTL by as much",
    "counters": "a frame that is forwarded is counted in its slot, once; no other counter changes",
    "tables": "no word changes but counters, the meter, and the counts of frames that wait",
    "short way": "where the short way forwards, the long way would: same port, octets and tables",
}


def number(octets):
    return z3.Concat(*octets)


def on_wire(address):
    """The 48 bits of an address as words of the tables have them, with the first octet lowest; and the other way round."""
    return z3.Concat(*(z3.Extract(at + 7, at, address) for at in range(0, 48, 8)))


def select(places, value, bits):
    """The value at one of several places, by conditions."""
    result = z3.BitVecVal(0, bits)
    for condition, at in places:
        result = z3.If(condition, value(at), result)
    return result


class Meaning:
    """What a frame and tables mean."""

    def __init__(self, given):
        self.given = given
        octets = given.octets
        self.destination = z3.ZeroExt(16, number(octets[0:6]))
        self.source = z3.ZeroExt(16, number(octets[6:12]))
        self.to_flow, self.from_flow = self.in_block(self.destination), self.in_block(self.source)
        self.address = z3.If(self.to_flow, self.destination, z3.If(self.from_flow, self.source, given.tuple()))
        self.super_packet = z3.Extract(31, 0, given.gso_size) != 0
        self._headers(octets)
        self.rights = {}

    # The tables.

    def in_block(self, address):
        return address & self.given.prefix_mask() == self.given.prefix()

    def index(self, address):
        """The number of the slot that an address points to."""
        return z3.ZeroExt(32, z3.Extract(31, 0, address) & z3.Extract(63, 32, self.given.slot_bits()))

    def is_slot(self, index, place):
        """Whether the slot with a number is the one in a place."""
        numbers = [self.given.slot_number(one) == index for one in range(place + 1)]
        return z3.And(numbers[-1], *(z3.Not(earlier) for earlier in numbers[:-1]))

    def is_port(self, port, place):
        numbers = [self.given.port_number(one) == port for one in range(place + 1)]
        return z3.And(numbers[-1], *(z3.Not(earlier) for earlier in numbers[:-1]))

    def with_port(self, port, condition):
        """Whether there is a port, and a condition on its place holds."""
        return z3.Or(*(z3.And(self.is_port(port, place), condition(place)) for place in range(3)))

    def key_holds(self, address):
        """Claim 19: the slot of the address has this address and the ingress port in its key."""
        key = z3.Concat(self.given.ingress, on_wire(address))
        here = (z3.And(self.is_slot(self.index(address), place), self.given.key(place) == key) for place in range(2))
        return z3.And(z3.Extract(63, 48, address) == 0, z3.Or(*here))

    def lease_holds(self, address):
        """The lease of the address has not ended."""

        def live(place):
            expires = z3.Extract(31, 0, self.given.terms(place))
            return z3.Or(expires == NEVER, z3.ULT(z3.Extract(31, 0, self.given.tick()), expires))

        return z3.Or(*(z3.And(self.is_slot(self.index(address), place), live(place)) for place in range(2)))

    def both(self, holds):
        """Something holds of the frame's flow address, and of the source's too where that is another one."""
        if holds.__name__ not in self.rights:
            source_too = z3.Implies(z3.And(self.to_flow, self.from_flow), holds(self.source))
            self.rights[holds.__name__] = z3.And(holds(self.address), source_too)
        return self.rights[holds.__name__]

    def restore(self, place=0):
        """What the slot says of the DSCP: whether it is changed, and to what."""
        word = z3.Extract(63, 32, self.given.terms(place))
        sets, clears = z3.Extract(8, 8, word) == 1, z3.Extract(9, 9, word) == 1
        value = z3.Extract(5, 0, word)
        return z3.Or(sets, clears), lambda dscp: z3.If(sets, value, z3.If(clears, dscp & ~value, dscp))

    # The frame.

    def _headers(self, octets):
        def ethertype(at):
            return number(octets[at : at + 2])

        def tag(at):
            return z3.Or(ethertype(at) == VLAN, ethertype(at) == SERVICE_VLAN)

        one = tag(12)
        two = z3.And(one, tag(16), z3.Extract(63, 0, self.given.tag_beside) == 0)
        self.places = []
        for at, here in ((14, z3.Not(one)), (18, z3.And(one, z3.Not(tag(16)))), (22, two)):
            whole = z3.ULE(at, self.given.length)
            self.places.append((z3.And(here, whole), at, ethertype(at - 2)))

    def ip(self, version):
        """Where the IP header may be, with conditions."""
        kind = IPV4 if version == 4 else IPV6
        return [(z3.And(here, ethertype == kind), at) for here, at, ethertype in self.places]

    def is_at(self, octet, fields):
        """Whether an octet of the frame is one of some fields: pairs of version and offset in the IP header."""
        return z3.Or(*(here for version, field in fields for here, at in self.ip(version) if at + field == octet))


ROUTED_FIELDS = ((4, TTL), (4, CHECKSUM), (4, CHECKSUM + 1), (6, HOP_LIMIT))
DSCP_FIELDS = ((4, TOS), (4, CHECKSUM), (4, CHECKSUM + 1), (6, 0), (6, 1))


class End:
    """The end of one path: what the frame and the tables are now."""

    def __init__(self, machine, state, given, copy=0):
        self.machine, self.state, self.given = machine, state, given
        frame, switch = given.frame_at(copy), given.switch_at(copy)
        self.octets = list(given.octets)
        for at in range(SEEN):
            if frame + at in state.written:
                self.octets[at] = z3.simplify(term(state.load(frame + at, 1), 8))
        self.changed = [at for at in range(SEEN) if not self.octets[at].eq(given.octets[at])]
        if any(SEEN <= at - frame < 0x1_0000 for at in state.written):
            self.require("octets", False, "an octet behind the headers changes")
        self.words = {}
        for at in sorted({(at - switch) & ~7 for at in state.written if switch <= at < switch + 0x1000}):
            word = term(state.load(switch + at, 8), 64)
            if not z3.simplify(word).eq(given.words[at]):
                self.words[at] = word

    def require(self, name, condition, text):
        self.machine.require(name, condition, text)

    def require_all(self, name, conditions, text):
        """Shows several conditions by one question."""
        if conditions:
            self.require(name, z3.And(*conditions), text)


def way(meaning, backup=z3.BoolVal(False), place=0):
    """The word of the hop that is taken."""
    return z3.If(backup, meaning.given.backup(place), meaning.given.next(place))


def hop_port(word):
    return z3.ZeroExt(49, z3.Extract(62, 48, word))


def hop_routed(word):
    return z3.Extract(63, 63, word) == 1


def check_way_on(end, meaning):
    """For a frame that goes on in its flow, whichever way."""
    end.require("port check", meaning.both(meaning.key_holds), "a frame goes on that the key does not let in")
    end.require("lease", meaning.both(meaning.lease_holds), "a frame goes on after the lease")


def check_egress(end, meaning, word, port):
    """For a frame that leaves by a port, on the hop of a word."""
    given = meaning.given
    up = meaning.with_port(port, lambda place: z3.Extract(0, 0, given.own(place)) == 1)
    conditions = [port != z3.ZeroExt(48, given.ingress), port == hop_port(word), port != 0, port != GROUP_PORT, up]
    end.require_all("egress", conditions, "the frame leaves by a port that it must not leave by")


def check_addresses(end, meaning, word, port):
    """Claim 17."""
    given = meaning.given
    destination, source = number(end.octets[0:6]), number(end.octets[6:12])
    own = meaning.with_port(port, lambda place: z3.Extract(1, 1, given.own(place)) == 1)
    port_address = select([(meaning.is_port(port, place), place) for place in (2, 1, 0)],
                          lambda place: z3.Extract(63, 16, given.own(place)), 48)
    expected = z3.If(own, port_address, z3.Extract(47, 0, meaning.address))
    conditions = [destination == on_wire(word), source == expected]
    end.require_all("addresses", conditions, "the frame is sent with other addresses")


def check_octets(end, meaning, addresses, routed, dscp):
    """No octet has changed but those of `addresses` first ones, and fields that may."""
    wrong = []
    for at in end.changed:
        if at >= addresses:
            may = z3.Or(z3.And(routed, meaning.is_at(at, ROUTED_FIELDS)), z3.And(dscp, meaning.is_at(at, DSCP_FIELDS)))
            wrong.append(z3.And(end.octets[at] != meaning.given.octets[at], z3.Not(may)))
    if wrong:
        end.require("octets", z3.Not(z3.Or(*wrong)), "an octet changes that must not")


def check_values(end, meaning, routed, dscp, becomes):
    """The new values of TTL, DSCP and checksum, where there is an IP header."""
    before, after = meaning.given.octets, end.octets
    if not any(at >= 12 for at in end.changed):
        # Then none of them may have had to change.
        changes = z3.Or(z3.And(routed, _expects_ttl(meaning)), z3.And(dscp, _expects_dscp(meaning, becomes)))
        end.require("values", z3.Not(changes), "TTL or DSCP stays as it was")
        return
    right = []
    for version, field in ((4, TTL), (6, HOP_LIMIT)):
        for here, at in meaning.ip(version):
            falls = z3.And(after[at + field] == before[at + field] - 1, after[at + field] != 0)
            right.append(z3.Implies(z3.And(here, routed), falls))
    for here, at in meaning.ip(4):
        old, new = before[at + TOS], after[at + TOS]
        expected = z3.Concat(becomes(z3.Extract(7, 2, old)), z3.Extract(1, 0, old))
        is_v4 = z3.And(here, z3.Extract(7, 4, before[at]) == 4, z3.ULE(at + 20, meaning.given.length))
        right.append(z3.Implies(z3.And(is_v4, dscp), new == expected))
        right.append(z3.Implies(z3.And(here, routed, z3.Not(dscp)), _same_sum(before, after, at)))
    for here, at in meaning.ip(6):
        old, new = number(before[at : at + 2]), number(after[at : at + 2])
        expected = z3.Concat(z3.Extract(15, 12, old), becomes(z3.Extract(11, 6, old)), z3.Extract(5, 0, old))
        is_v6 = z3.And(here, z3.Extract(7, 4, before[at]) == 6, z3.ULE(at + 2, meaning.given.length))
        right.append(z3.Implies(z3.And(is_v6, dscp), new == expected))
    end.require_all("values", right, "TTL, DSCP or checksum is another one than it should be")


def _expects_ttl(meaning):
    return z3.Or(*(here for version in (4, 6) for here, _ in meaning.ip(version)))


def _expects_dscp(meaning, becomes):
    octets, length = meaning.given.octets, meaning.given.length
    wants = []
    for here, at in meaning.ip(4):
        old = z3.Extract(7, 2, octets[at + TOS])
        wants.append(z3.And(here, z3.Extract(7, 4, octets[at]) == 4, z3.ULE(at + 20, length), becomes(old) != old))
    for here, at in meaning.ip(6):
        old = z3.Extract(11, 6, number(octets[at : at + 2]))
        wants.append(z3.And(here, z3.Extract(7, 4, octets[at]) == 6, z3.ULE(at + 2, length), becomes(old) != old))
    return z3.Or(*wants)


def _same_sum(before, after, at):
    """The one's complement sum of the header is what it was (RFC 1624): a checksum that was right is right, a wrong one wrong."""

    def added(octets):
        words = [number(octets[at + field : at + field + 2]) for field in (0, TTL, CHECKSUM)]
        return sum((z3.ZeroExt(16, word) for word in words[1:]), z3.ZeroExt(16, words[0]))

    # Each is below 3 * 0xffff, so they are the same modulo 0xffff if they differ by at most twice that.
    grows = z3.simplify(added(after) - added(before))
    return z3.Or(*(grows == z3.BitVecVal(times * 0xFFFF, 32) for times in (0, 1, -1, 2, -2)))


def check_tables(end, meaning, counted, may):
    """No word of the tables has changed but a slot's counters, which are those of the frame's flow and only if `counted`, and
    those that `may(name, place, before, after)` gives a condition for."""
    given = meaning.given
    counters, words = [], []
    for at, after in end.words.items():
        name, place = WORDS[at]
        before = given.words[at]
        if name in ("packets", "bytes"):
            ours = z3.And(counted, meaning.is_slot(meaning.index(meaning.address), place))
            counters.append(z3.Or(after == before, ours))
            continue
        condition = may(name, place, before, after)
        words.append(after == before if condition is None else z3.Or(after == before, condition))
    end.require_all("counters", counters, "a counter of a slot changes that must not")
    end.require_all("tables", words, "a word of the tables changes that must not, or not as it may")


def check_counted(end, meaning):
    """A frame that is forwarded is counted, once and with its octets. Into how many segments a super-packet will be split is left
    open: that takes a division."""
    given, right = meaning.given, []
    for place in range(2):
        ours = meaning.is_slot(meaning.index(meaning.address), place)
        for name, single in (("packets", z3.BitVecVal(1, 64)), ("bytes", given.length)):
            at = 128 + 64 * place + (32 if name == "packets" else 40)
            grows = end.words.get(at, given.words[at]) - given.words[at]
            counted = z3.Or(meaning.super_packet, grows == single)
            right.append(z3.Implies(ours, counted))
    end.require_all("counters", right, "the slot's counters do not grow by the frame")


def meter(given):
    """The meter's state changes only where there is a rate."""
    return lambda name, place, before, after: given.rate(place) != 0 if name == "full_at" else None


def check_run(end, meaning, verdict):
    """All that must hold where the long way ends with a verdict."""
    given, no = meaning.given, z3.BoolVal(False)
    kind = verdict & 0xFF
    for one in end.machine.values(z3.simplify(kind), 64):
        with end.machine.where(z3.simplify(kind) == one):
            _check_kind(end, meaning, one, verdict, given, no)


def _check_kind(end, meaning, kind, verdict, given, no):
    which = z3.LShR(verdict, 32)
    if kind == FORWARD:
        check_way_on(end, meaning)
        word = way(meaning, z3.Extract(15, 8, verdict) == BACKUP)
        check_egress(end, meaning, word, which)
        check_addresses(end, meaning, word, which)
        dscp, becomes = meaning.restore()
        check_octets(end, meaning, 12, hop_routed(word), dscp)
        check_values(end, meaning, hop_routed(word), dscp, becomes)
        check_tables(end, meaning, z3.BoolVal(True), meter(given))
        check_counted(end, meaning)
        return
    stays = kind not in (PASS, MARKED, ASK)
    end.require("port check", stays, "a frame of a flow passes, or asks for another one")
    if kind == TO_LINUX:
        check_way_on(end, meaning)
        check_octets(end, meaning, 6, no, no)
        own = meaning.with_port(z3.ZeroExt(48, given.ingress),
                                lambda place: number(end.octets[0:6]) == z3.Extract(63, 16, given.own(place)))
        end.require("addresses", own, "a frame for Linux is not addressed to the port itself")
    else:
        if kind in (REPLICATE, RESOLVE):
            check_way_on(end, meaning)
            end.require("port check", which == meaning.index(meaning.address), "the verdict names another slot")
        end.require("octets", z3.BoolVal(not end.changed),
                    "a frame that is not sent changes")

    def may(name, place, before, after):
        if name == "full_at" and kind in (TO_LINUX, DROP):
            return given.rate(place) != 0
        if name == "next" and kind == RESOLVE:
            return after == before + 1
        return None

    check_tables(end, meaning, no, may)
