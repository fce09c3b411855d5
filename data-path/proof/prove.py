"""Proves what docs/proof.md says of the compiled pipeline: `prove.py LIBRARY [--only TASK]`. The result is a
line of JSON on standard output.

Exit code 0 if every property holds on every path, 1 if one does not (then it says for which frame), 2 if the proof can not be made.
"""

import argparse
import concurrent.futures
import ctypes
import json
import os
import sys
import time
import traceback

import z3

import properties
from machine import Image, Machine, NotUnderstood, Violation, register, term
from properties import End, Meaning
from switch import PORTS, SEEN, SLOTS, SWITCH, SWITCH_SIZE, WORDS, Given

LENGTH_MAX = 65_535


def inside(function):
    """Whether a function is the pipeline's, or that of an entry."""
    return "flowlane" in function


class Task:
    """One entry of the library, from all beginnings that the assumptions allow."""

    def __init__(self, name, entry, copies=1, together=False):
        self.name, self.entry = name, entry
        self.given = Given(LENGTH_MAX, copies)
        self.meaning = Meaning(self.given)
        self.together = together
        self.replayed = self.guessed = 0
        self.next_word = time.monotonic() + 30

    def prove(self, path):
        image = Image(path)
        self.library = ctypes.CDLL(os.path.abspath(path))
        given = self.given
        self.machine = Machine(image, given.regions(image), inside, self.together)
        self.machine.progress, self.machine.watched = self.progress, self.watched(image)
        self.machine.lemmas = [self.meaning.both(holds) for holds in (self.meaning.key_holds, self.meaning.lease_holds)]
        state = given.state(image, self.entry, self.arguments())
        begun = time.monotonic()
        found = None
        try:
            self.machine.run(state, [*assumptions(given), *self.assumptions()], self.end)
        except Violation as violation:
            found = describe(violation, given)
        machine = self.machine
        return {
            "task": self.name, "paths": machine.paths, "instructions": machine.instructions, "longest": machine.longest,
            "accesses": machine.accesses, "questions": machine.questions.asked, "solved": machine.questions.solved,
            "shown": dict(machine.shown), "replayed": self.replayed, "guessed": self.guessed, "violation": found,
            "seconds": round(time.monotonic() - begun, 1),
        }

    def progress(self, machine):
        """Says every half minute how far it is."""
        if time.monotonic() >= self.next_word:
            self.next_word += 30
            print(f"    {self.name}: {machine.turns} blocks, {machine.paths} ends, {machine.questions.asked} questions", file=sys.stderr)

    def arguments(self):
        given = self.given
        return [given.given_at(), z3.ZeroExt(48, given.ingress), given.switch_at()]

    def watched(self, image):
        """What looks at the state on the way, by the address of the function that is called there."""
        return {}

    def assumptions(self):
        return []

    def end(self, state):
        if self.machine.paths == 1:
            # The machine may have begun anew.
            self.replayed = self.guessed = 0
        self.check(state, term(state.get(register("rax"), 64), 64))
        self.replay(state)

    # On the processor.

    def replay(self, state):
        """Runs the path on the processor, with the frame and tables that the solver names for it: it must end the same."""
        machine, given = self.machine, self.given
        if machine.guessed():
            self.guessed += 1
            return
        model = machine.model
        value = model.value
        copies = [Memory(given, model, value(given.length)) for _ in range(given.copies)]
        call = self.library[self.entry]
        call.restype = ctypes.c_uint64
        said = call(*self.native(copies, value))
        expected = value(term(state.get(register("rax"), 64), 64))
        if said != expected:
            raise NotUnderstood(f"the processor says {said:#x}, the proof {expected:#x}: {copies[0].before.hex()}")
        for copy, memory in enumerate(copies):
            if not memory.compare(End(machine, state, given, copy), model):
                raise NotUnderstood(f"the processor makes another frame or other tables of {memory.before.hex()}")
        self.replayed += 1

    def native(self, copies, value):
        (memory,) = copies
        return [memory.given, ctypes.c_uint16(value(self.given.ingress)), memory.switch]


class Memory:
    """A frame and tables in this process, as a model says."""

    def __init__(self, given, model, length):
        known = model.known
        self.before = bytes(known.get(f"octet_{at}", 0) for at in range(min(length, SEEN))).ljust(length, b"\0")
        self.words = {at: known.get(name, 0) for at, name in given.names.items()}
        self.frame = ctypes.create_string_buffer(self.before, length + 1)
        fields = (ctypes.addressof(self.frame), length, model.value(given.gso_size), model.value(given.tag_beside))
        self.given = (ctypes.c_uint64 * 4)(*fields)
        self.room = ctypes.create_string_buffer(SWITCH_SIZE + 64)
        self.switch = ctypes.c_void_p((ctypes.addressof(self.room) + 63) & ~63)
        for at, word in self.words.items():
            if word:
                ctypes.c_uint64.from_address(self.switch.value + at).value = word

    def compare(self, end, model):
        """Whether both are now what the proof says."""
        octets, words = bytearray(self.before), dict(self.words)
        for at in end.changed:
            octets[at] = model.value(end.octets[at])
        for at, word in end.words.items():
            words[at] = model.value(word)
        found = {at: ctypes.c_uint64.from_address(self.switch.value + at).value for at in words}
        return self.frame.raw[:-1] == bytes(octets) and found == words


class Run(Task):
    """`flowlane_pipeline::run`."""

    def assumptions(self):
        return one_naming(self.meaning)

    def check(self, state, verdict):
        properties.check_run(End(self.machine, state, self.given), self.meaning, verdict)


class Replicate(Task):
    """`flowlane_pipeline::replicate`, for groups with so many places."""

    PLACES = 2

    def arguments(self):
        given, meaning = self.given, self.meaning
        numbers = (z3.Extract(31, 0, number) for number in (meaning.index(meaning.address), given.group_number()))
        return [*super().arguments(), *(z3.ZeroExt(32, number) for number in numbers)]

    def assumptions(self):
        """`run` has found the flow in its slot. Receivers at one port and address are all in the same subnet, or all not."""
        given, meaning = self.given, self.meaning
        words = [given.hop(place) for place in range(self.PLACES)]
        alike = [z3.Implies(z3.Extract(62, 0, one) == z3.Extract(62, 0, other), one == other) for one in words for other in words]
        found = given.slot_number(0) == meaning.index(meaning.address)
        return [z3.ULE(given.places(), self.PLACES), found, meaning.key_holds(meaning.address), *alike]

    def watched(self, image):
        return {image.named["flowlane_sent"]: self.sent}

    def native(self, copies, value):
        index, group = (value(argument) for argument in self.arguments()[-2:])
        return [*super().native(copies, value), ctypes.c_uint32(index), ctypes.c_uint32(group)]

    def sent(self, state):
        port = z3.ZeroExt(48, term(state.get(register("rdi"), 16), 16))
        properties.check_copy(End(self.machine, state, self.given), self.meaning, port, self.PLACES)

    def check(self, state, how):
        properties.check_replicated(End(self.machine, state, self.given), self.meaning, how & 0xFF, self.PLACES)


class Forward(Task):
    """`flowlane_pipeline::forward`."""

    def assumptions(self):
        return [*one_naming(self.meaning), *written_by_us(self.meaning)]

    def check(self, state, port):
        end, meaning, given = End(self.machine, state, self.given), self.meaning, self.given
        no = z3.BoolVal(False)
        for plain, condition in ((False, port == properties.NOT_PLAIN), (True, port != properties.NOT_PLAIN)):
            if self.machine.possible(condition) is None:
                continue
            with self.machine.where(condition):
                if plain:
                    self.forwarded(end, meaning, port)
                else:
                    end.require("octets", not end.changed, "a frame that is not plain changes")
                    properties.check_tables(end, meaning, no, lambda *_: None)

    def forwarded(self, end, meaning, port):
        no = z3.BoolVal(False)
        word = properties.way(meaning)
        properties.check_way_on(end, meaning)
        properties.check_egress(end, meaning, word, port)
        properties.check_addresses(end, meaning, word, port)
        properties.check_octets(end, meaning, 12, no, no)
        properties.check_tables(end, meaning, z3.BoolVal(True), properties.meter(self.given))
        properties.check_counted(end, meaning)


class Both(Task):
    """The short way, and the long way for a frame that it forwards."""

    def assumptions(self):
        return [*one_naming(self.meaning), *written_by_us(self.meaning)]

    def arguments(self):
        given = self.given
        return [*super().arguments(), given.given_at(1), given.switch_at(1)]

    def native(self, copies, value):
        return [*super().native(copies[:1], value), copies[1].given, copies[1].switch]

    def check(self, state, verdict):
        if self.machine.possible(verdict != properties.NOT_PLAIN) is None:
            return
        with self.machine.where(verdict != properties.NOT_PLAIN):
            short, long = (End(self.machine, state, self.given, copy) for copy in range(2))
            port = properties.hop_port(self.given.next(0))
            expected = port << 32 | 1 << 8 | properties.FORWARD
            short.require("short way", verdict == expected, "the long way does not forward to the same port")
            for at in range(SEEN):
                short.require("short way", short.octets[at] == long.octets[at], "the octets are others")
            for at in sorted({*short.words, *long.words}):
                here, there = (end.words.get(at, self.given.words[at]) for end in (short, long))
                short.require("short way", here == there, f"the word {WORDS[at][0]} is another one")


# What is assumed of the beginning; docs/proof.md lists it.


def assumptions(given):
    """A frame is at most as long as LENGTH_MAX; the payload of a segment has 16 bits, as the kernel keeps it. `Block::new` writes
    prefix and mask of an address, and both as on the wire."""
    frame = [z3.ULE(given.length, LENGTH_MAX), z3.ULE(given.gso_size, 0xFFFF), z3.ULE(given.tag_beside, 1)]
    block = []
    for numbers, wire in ((given.prefix(), given.wire_prefix()), (given.prefix_mask(), given.wire_mask())):
        block += [z3.ULT(numbers, 1 << 48), wire == z3.ZeroExt(16, properties.on_wire(numbers))]
    return [*frame, *block]


def one_naming(meaning):
    """Which place of `Switch` a slot or port stands in says nothing: the frame's slot, if it exists, may as well be in the first
    one, and so may the port of the next hop, and that of the backup in one of the first two."""
    given = meaning.given
    index = meaning.index(meaning.address)
    numbers = [given.port_number(place) for place in range(PORTS)]
    next_port, backup_port = (properties.hop_port(word) for word in (given.next(0), given.backup(0)))
    return [
        z3.Or(given.slot_number(0) == index, given.slot_number(1) != index),
        z3.Or(numbers[0] == next_port, z3.And(*(number != next_port for number in numbers[1:]))),
        z3.Or(numbers[0] == backup_port, numbers[1] == backup_port, numbers[2] != backup_port),
    ]


def written_by_us(meaning):
    """What the short way relies on. `Slot::install` takes addresses of the block only, and sets the sign of the terms where there is
    a rate or the DSCP is restored. `PortEntry::set` writes the room for plain
    frames: that of the MTU where the port is up, has no source of its own and takes more than socket buffers. Ports are numbered
    from 1 to 1023."""
    given = meaning.given
    conditions = [given.ingress != 0]
    for place in range(SLOTS):
        address = z3.ZeroExt(16, properties.on_wire(given.key(place)))
        conditions.append(z3.Or(given.key(place) == 0, meaning.in_block(address)))
        terms, restores = given.terms(place), meaning.restore(place)[0]
        unusual = z3.Or(given.rate(place) != 0, restores)
        conditions += [(z3.Extract(63, 63, terms) == 1) == unusual, z3.Extract(62, 42, terms) == 0]
        conditions += [z3.Or(restores, z3.Extract(41, 32, terms) == 0)]
    for place in range(PORTS):
        own, room = given.own(place), given.plain_room(place)
        mtu = z3.ZeroExt(32, z3.Extract(31, 0, given.link(place)))
        conditions.append(room == z3.If(own & 0b111 == 0b001, mtu + 14, z3.BitVecVal(0, 64)))
        conditions += [z3.ULT(mtu, 1 << 31), z3.ULT(given.port_number(place), 1024)]
        conditions.append(z3.Implies(given.port_number(place) == 0, own & 1 == 0))
    return conditions


TASKS = {
    "forward": lambda: Forward("forward", "flowlane_forward"),
    "forward and run": lambda: Both("forward and run", "flowlane_both", copies=2),
    "run": lambda: Run("run", "flowlane_run", together=True),
    "replicate": lambda: Replicate("replicate", "flowlane_replicate", together=True),
}


def describe(violation, given):
    """A violation, and the frame and tables that show it."""
    value = violation.model.value
    length = value(given.length)
    octets = bytes(value(octet) for octet in given.octets)[:length]
    words = {f"{WORDS[at][0]}[{WORDS[at][1]}]": f"{value(word):#x}" for at, word in given.words.items() if value(word)}
    return {"property": violation.name, "text": violation.text, "frame": octets.hex(), "length": length,
            "gso_size": value(given.gso_size), "tag_beside": value(given.tag_beside), "ingress": value(given.ingress), "tables": words}


def prove(library, name):
    sys.setrecursionlimit(100_000)
    try:
        return TASKS[name]().prove(library)
    except NotUnderstood as reason:
        return {"task": name, "error": str(reason)}
    except Exception:
        return {"task": name, "error": traceback.format_exc()}


def summary(results):
    """All that has been found, by property."""
    broken = {result["violation"]["property"] for result in results if result["violation"]}
    listed = []
    for name, text in properties.NAMES.items():
        shown = sum(result["shown"].get(name, 0) for result in results)
        if shown == 0:
            # These tasks do not ask for it.
            continue
        listed.append({"name": name, "text": text, "holds": name not in broken, "shown": shown})
    return {"length_max": LENGTH_MAX, "properties": listed, "tasks": results}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", help="libflowlane_proof.so")
    parser.add_argument("--only", action="append", choices=TASKS, help="leave out the other tasks")
    options = parser.parse_args()
    names = options.only or list(TASKS)
    results = []
    with concurrent.futures.ProcessPoolExecutor(min(len(names), os.cpu_count() or 1)) as pool:
        for result in pool.map(prove, [options.library] * len(names), names):
            if "error" in result:
                print(f"{result['task']}: {result['error']}", file=sys.stderr)
                pool.shutdown(cancel_futures=True)
                return 2
            print(f"    {result['task']}: {result['paths']} paths in {result['seconds']} s", file=sys.stderr)
            results.append(result)
    print(json.dumps(summary(results)))
    return 1 if any(result["violation"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
