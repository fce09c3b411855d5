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
# `End::Replicate`: at least one copy was sent.
REPLICATED = 19
NOT_PLAIN = (1 << 64) - 1

NEVER = 0xFFFF_FFFF
# Bits of a port's flags by their numbers.
UP, OWN_SOURCE, MARKS = 0, 1, 4
# The bits of the address of a group (IEEE 802), and how many flagged frames of a port may wait.
TO_GROUP, ASKING_LIMIT = 40, 256
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
    "flag": "a frame without a flow address is put into a flow, or waits for one, only if it is flagged and the port reads the flag; "
            "only a port that adds the flag does so (claims 23 and 24)",
    "octets": "nothing else changes but TTL and checksum at a routed hop, DSCP and checksum where slot or port say so",
    "values": "TTL falls by one and is never sent as 0; the DSCP is what slot or port say; an IPv4 checksum that was right is right",
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
        self.of_flow = z3.Or(self.to_flow, self.from_flow)
        self.to_group = z3.Extract(TO_GROUP, TO_GROUP, self.destination) == 1
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

    def at_ingress(self, condition):
        """Whether the ingress port is there, and a condition on its place holds."""
        return self.with_port(z3.ZeroExt(48, self.given.ingress), condition)

    def port_is(self, flag, place):
        return z3.Extract(flag, flag, self.given.own(place)) == 1

    def flag(self, place):
        """Mask and value of the flag of a port; there is none where the mask is 0."""
        word = self.given.flag(place)
        return z3.Extract(13, 8, word), z3.Extract(5, 0, word)

    def is_flagged(self):
        """The frame is no group's, and carries the flag that its ingress port reads."""

        def carries(place):
            mask, value = self.flag(place)
            return z3.And(mask != 0, z3.Not(self.port_is(MARKS, place)), self.dscp()[1] & mask == value)

        return z3.And(z3.Not(self.to_group), self.dscp()[0], self.at_ingress(carries))

    def is_marked(self):
        """The frame is no group's, and its ingress port adds a flag, to packets that do not carry it."""

        def adds(place):
            mask, value = self.flag(place)
            return z3.And(mask != 0, self.port_is(MARKS, place), self.dscp()[1] & mask != value)

        return z3.And(z3.Not(self.to_group), self.dscp()[0], self.at_ingress(adds))

    def with_flag(self, dscp):
        """A DSCP with the flag of the ingress port added."""
        result = dscp
        for place in (2, 1, 0):
            mask, value = self.flag(place)
            result = z3.If(self.is_port(z3.ZeroExt(48, self.given.ingress), place), dscp & ~mask | value, result)
        return result

    # The frame.

    def dscp(self):
        """Whether the frame is an IP packet with a DSCP, and the DSCP."""
        octets, result, there = self.given.octets, z3.BitVecVal(0, 6), []
        for version, low in ((4, 2), (6, 6)):
            for here, at in self.ip(version):
                is_ip = z3.And(here, z3.Extract(7, 4, octets[at]) == version, z3.ULE(at + 2, self.given.length))
                value = z3.Extract(low + 5, low, number(octets[at : at + 2]))
                result = z3.If(is_ip, value, result)
                there.append(is_ip)
        return z3.Or(*there), result

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
    known = z3.And(meaning.given.tuple_known() != 0, meaning.given.tuple() != 0)
    by_flag = z3.Or(meaning.of_flow, z3.And(meaning.is_flagged(), known))
    end.require("flag", by_flag, "a frame that is not flagged is put into a flow")


def check_egress(end, meaning, word, port):
    """For a frame that leaves by a port, on the hop of a word."""
    given = meaning.given
    up = meaning.with_port(port, lambda place: meaning.port_is(UP, place))
    conditions = [port != z3.ZeroExt(48, given.ingress), port == hop_port(word), port != 0, port != GROUP_PORT, up]
    end.require_all("egress", conditions, "the frame leaves by a port that it must not leave by")


def source_by(meaning, port):
    """The source of the frames of a flow that leave by a port."""
    own = meaning.with_port(port, lambda place: meaning.port_is(OWN_SOURCE, place))
    port_address = select([(meaning.is_port(port, place), place) for place in (2, 1, 0)],
                          lambda place: z3.Extract(63, 16, meaning.given.own(place)), 48)
    return z3.If(own, port_address, z3.Extract(47, 0, meaning.address))


def check_addresses(end, meaning, word, port):
    """Claim 17."""
    destination, source = number(end.octets[0:6]), number(end.octets[6:12])
    conditions = [destination == on_wire(word), source == source_by(meaning, port)]
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
    for version, field in ((4, TTL), (6, HOP_LIMIT)):
        for here, at in meaning.ip(version):
            if end.machine.possible(here) is None:
                continue
            with end.machine.where(here):
                falls = z3.And(after[at + field] == before[at + field] - 1, after[at + field] != 0)
                end.require("values", z3.Implies(routed, falls), "the TTL does not fall by one")
                set_ = _dscp_is_set(meaning, before, after, version, at, becomes)
                end.require("values", z3.Implies(dscp, set_), "the DSCP is another one than it should be")
                if version == 4:
                    end.require("values", _same_sum(before, after, at), "the checksum changes by something else")


def _dscp_is_set(meaning, before, after, version, at, becomes):
    """The DSCP of an IP header that is whole is what it should be, and all beside it stays."""
    if version == 4:
        old, new, least = before[at + TOS], after[at + TOS], 20
        expected = z3.Concat(becomes(z3.Extract(7, 2, old)), z3.Extract(1, 0, old))
    else:
        old, new, least = number(before[at : at + 2]), number(after[at : at + 2]), 2
        expected = z3.Concat(z3.Extract(15, 12, old), becomes(z3.Extract(11, 6, old)), z3.Extract(5, 0, old))
    is_ip = z3.And(z3.Extract(7, 4, before[at]) == version, z3.ULE(at + least, meaning.given.length))
    return z3.Implies(is_ip, new == expected)


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

    # Each is at most 3 * 0xffff, so they are the same modulo 0xffff if they differ by so many times that.
    grows = z3.simplify(added(after) - added(before))
    return z3.Or(*(grows == z3.BitVecVal(times * 0xFFFF, 32) for times in range(-3, 4)))


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
    if kind in (PASS, MARKED, ASK):
        end.require("port check", z3.Not(meaning.of_flow), "a frame of a flow passes, or asks for another one")
    if kind == MARKED:
        yes = z3.BoolVal(True)
        end.require("flag", meaning.is_marked(), "a frame is flagged that must not be")
        check_octets(end, meaning, 0, no, yes)
        check_values(end, meaning, no, yes, meaning.with_flag)
    elif kind == TO_LINUX:
        check_way_on(end, meaning)
        check_octets(end, meaning, 6, no, no)
        own = meaning.at_ingress(lambda place: number(end.octets[0:6]) == z3.Extract(63, 16, given.own(place)))
        end.require("addresses", own, "a frame for Linux is not addressed to the port itself")
    else:
        if kind in (REPLICATE, RESOLVE):
            check_way_on(end, meaning)
            end.require("port check", which == meaning.index(meaning.address), "the verdict names another slot")
        if kind == ASK:
            end.require("flag", z3.And(meaning.is_flagged(), given.tuple_known() == 0), "a frame waits for a flow that must not")
        check_octets(end, meaning, 0, no, no)

    def may(name, place, before, after):
        if name == "full_at" and kind in (TO_LINUX, DROP):
            return given.rate(place) != 0
        if name == "next" and kind == RESOLVE:
            return z3.And(meaning.is_slot(meaning.index(meaning.address), place), after == before + 1)
        if name == "asking" and kind == ASK:
            ours = meaning.is_port(z3.ZeroExt(48, given.ingress), place)
            return z3.And(ours, after == before + 1, z3.ULT(before, ASKING_LIMIT))
        return None

    check_tables(end, meaning, no, may)


def receiver(meaning, place):
    """Whether a place of the group has a receiver that is to get a copy, and the word of its hop."""
    given = meaning.given
    word = given.hop(place)
    port = hop_port(word)
    there = z3.And(z3.UGT(given.places(), place), port != 0, port != GROUP_PORT, port != z3.ZeroExt(48, given.ingress))
    return there, word


def check_copy(end, meaning, port, places):
    """A copy of a frame that is sent by a port is one of a receiver in one of the places, as that one is to get it."""
    given = meaning.given
    destination, source = number(end.octets[0:6]), number(end.octets[6:12])
    up = meaning.with_port(port, lambda place: meaning.port_is(UP, place))
    end.require("egress", z3.And(up, port != z3.ZeroExt(48, given.ingress)), "a copy leaves by a port that it must not leave by")
    theirs = []
    for place in range(places):
        there, word = receiver(meaning, place)
        theirs.append((z3.And(there, port == hop_port(word), destination == on_wire(word)), word))
    end.require("addresses", z3.Or(*(one for one, _ in theirs)), "a copy is sent that is no receiver's")
    end.require("addresses", source == source_by(meaning, port), "a copy is sent with another source")
    dscp, becomes = meaning.restore()
    for one, word in theirs:
        if end.machine.possible(one) is not None:
            with end.machine.where(one):
                check_octets(end, meaning, 12, hop_routed(word), dscp)
                check_values(end, meaning, hop_routed(word), dscp, becomes)


def check_replicated(end, meaning, how, places):
    """All that must hold where the copies of a frame have been made."""
    given, counted = meaning.given, how == REPLICATED
    receivers = ("receiver_packets", "receiver_bytes", "missed")

    def may(name, place, before, after):
        if name == "full_at":
            return given.rate(place) != 0
        return receiver(meaning, place)[0] if name in receivers and place < places else None

    check_tables(end, meaning, counted, may)
    for one in (True, False):
        if end.machine.possible(counted == one) is not None:
            with end.machine.where(counted == one):
                check_copies_counted(end, meaning, one, places)


def check_copies_counted(end, meaning, counted, places):
    """Each receiver has one copy more, or one that it did not get; and the flow one frame if anybody got it."""
    given = meaning.given
    if counted:
        check_counted(end, meaning)
    right, anybody = [], []
    for place in range(places):
        grows = []
        for name in ("receiver_packets", "receiver_bytes", "missed"):
            at = next(at for at, word in WORDS.items() if word == (name, place))
            grows.append(end.words.get(at, given.words[at]) - given.words[at])
        there, _ = receiver(meaning, place)
        got = z3.And(grows[0] == 1, grows[1] == given.length, grows[2] == 0)
        nothing = z3.And(grows[0] == 0, grows[1] == 0)
        anybody.append(z3.And(there, got))
        right.append(z3.Or(meaning.super_packet, z3.And(there, got), z3.And(nothing, z3.Or(grows[2] == 0, z3.And(there, grows[2] == 1)))))
    right.append(z3.Or(meaning.super_packet, z3.Or(*anybody) if counted else z3.Not(z3.Or(*anybody))))
    end.require_all("counters", right, "a receiver's counters do not grow by its copy")
