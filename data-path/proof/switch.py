"""What the pipeline is given: a frame, and a switch's tables. Every octet and every word is a symbol.

The layout is that of src/given.rs and src/frame.rs, which check it when they are compiled.
"""

import z3

from machine import IMAGE, RETURN, STACK, STACK_SIZE, NotUnderstood, Region, State, register

FRAME, GIVEN, SWITCH = 0x1000_0000, 0x2000_0000, 0x3000_0000
# The octets of a frame that have symbols. What is behind them may exist, but is found to be never touched.
SEEN = 128
SLOTS, PORTS, RECEIVERS = 2, 3, 64
SWITCH_SIZE = 2560

SLOT = ("key", "terms", "next", "backup", "packets", "bytes", "rate", "full_at")
PORT = ("link", "own", "flag", "asking", "plain_room", "port_unused", "port_unused", "port_unused")
RECEIVER = ("hop", "receiver_packets", "receiver_bytes", "missed")
HEAD = ("prefix", "prefix_mask", "slot_bits", "wire_prefix", "wire_mask", "tick", "nanos", "tuple_known", "tuple", "group_number")

# Which word is where: (name, which of them) by offset.
WORDS = {}


def _lay(names, at, which=0):
    for name in names:
        WORDS[at] = (name, which)
        at += 8
    return at


_lay(HEAD, 0)
for _place in range(SLOTS):
    WORDS[80 + 8 * _place] = ("slot_number", _place)
    _lay(SLOT, 128 + 64 * _place, _place)
for _place in range(PORTS):
    WORDS[96 + 8 * _place] = ("port_number", _place)
    _lay(PORT, 256 + 64 * _place, _place)
_lay(("taking",), 120)
_lay(("places",) + ("group_unused",) * 7, 448)
for _place in range(RECEIVERS):
    _lay(RECEIVER, 512 + 32 * _place, _place)


class Given:
    """The symbols of one frame and the tables that it meets, and the memory that they are in."""

    def __init__(self, length_max, copies=1):
        self.length = z3.BitVec("length", 64)
        self.gso_size = z3.BitVec("gso_size", 64)
        self.tag_beside = z3.BitVec("tag_beside", 64)
        self.ingress = z3.BitVec("ingress", 16)
        self.octets = [z3.BitVec(f"octet_{i}", 8) for i in range(SEEN)]
        self.words = {at: z3.BitVec(f"{name}_{which}_{at}", 64) for at, (name, which) in WORDS.items()}
        self.named = {WORDS[at]: word for at, word in self.words.items()}
        self.names = {at: word.decl().name() for at, word in self.words.items()}
        self.length_max = length_max
        self.copies = copies
        self.cells = {}
        for copy in range(copies):
            self._place(copy)

    def frame_at(self, copy=0):
        return FRAME + copy * 0x10_0000

    def switch_at(self, copy=0):
        return SWITCH + copy * 0x10_0000

    def given_at(self, copy=0):
        return GIVEN + copy * 0x10_0000

    def _place(self, copy):
        for index, octet in enumerate(self.octets):
            self._cell(self.frame_at(copy) + index, octet, 1)
        for at, word in self.words.items():
            self._cell(self.switch_at(copy) + at, word, 8)
        fields = (self.frame_at(copy), self.length, self.gso_size, self.tag_beside)
        for index, field in enumerate(fields):
            self._cell(self.given_at(copy) + 8 * index, field, 8)

    def _cell(self, at, value, size):
        for index in range(size):
            self.cells[at + index] = (value, size, index)

    def regions(self, image):
        """All memory that the pipeline may touch."""
        stack = Region("the stack", STACK - STACK_SIZE, STACK_SIZE + 8)
        own = [Region("the library", begin, len(data), writable=False) for begin, data, written in image.segments if not written]
        tables = [Region("the library's tables of addresses", begin, len(data), writable=False)
                  for begin, data, written in image.segments if written]
        regions = [stack, *own, *tables]
        for copy in range(self.copies):
            regions.append(Region("the frame", self.frame_at(copy), self.length_max + 64, self.length))
            regions.append(Region("the tables", self.switch_at(copy), SWITCH_SIZE))
            regions.append(Region("what is said of the frame", self.given_at(copy), 32, writable=False))
        return regions

    def state(self, image, entry, arguments):
        """The machine at the beginning of an entry, which is given these arguments."""

        def beginning(at):
            cell = self.cells.get(at)
            if cell is None:
                octet = image.octet(at)
                if octet is None:
                    raise NotUnderstood(f"memory that has no symbol is read: {at:#x}")
                cell = self.cells[at] = (octet, 1, 0)
            return cell

        state = State(beginning)
        general = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
        for name in (*general, "cc_dep1", "cc_dep2", "cc_ndep"):
            state.registers[register(name)] = z3.BitVec(f"before_{name}", 64)
        state.registers[register("cc_op")] = 0
        for name, value in zip(("rdi", "rsi", "rdx", "rcx", "r8", "r9"), arguments):
            state.registers[register(name)] = value
        state.registers[register("rsp")] = STACK
        state.store(STACK, RETURN, 8)
        state.at = image.named[entry]
        return state

    def __getattr__(self, name):
        """`given.key(0)`: a word by its name, and which of them it is."""
        return lambda which=0: self.named[(name, which)]
