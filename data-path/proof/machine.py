"""Machine code executed on symbols instead of values.

Code is lifted to VEX by pyvex, block by block, and followed along every path that Z3 finds possible. A value is a number where it
is known, and else a term of Z3. Nothing is guessed and nothing is cut short: what is not understood raises `NotUnderstood`.
Every access to memory is shown to lie in a region that the caller has named, for all values that it could have, or it is a
violation; so is every way out of the functions that the caller has named.
"""

import collections
import contextlib
import functools
import heapq
import re

import archinfo
import pyvex
import z3
from elftools.elf.elffile import ELFFile

ARCH = archinfo.ArchAMD64()
# Where the library is put. Anywhere would do: its code is independent of its place.
IMAGE = 0x0040_0000
STACK = 0x7FFF_0000
STACK_SIZE = 0x4000
# Where an entry returns to.
RETURN = 0x6000_0000
# A symbolic address may have so many values.
PLACES_MAX = 256
# An address in memory whose length is a term, when it is a term itself; and how symbols of what stands there are named.
SOMEWHERE = -1
GUESS = "somewhere_"
# A path that takes more instructions than this is taken for one without an end.
INSTRUCTIONS_MAX = 200_000


class NotUnderstood(Exception):
    """The executor does not know what an instruction does: the proof can not be made."""


class AnotherWay(Exception):
    """A jump leads to places that were not known when the order of blocks was made: it has to be made anew."""


class Violation(Exception):
    """A property does not hold: `name` says which, `model` for which frame and tables."""

    def __init__(self, name, text, model):
        super().__init__(f"{name}: {text}")
        self.name, self.text, self.model = name, text, model


def mask(bits):
    return (1 << bits) - 1


def term(value, bits):
    return z3.BitVecVal(value, bits) if isinstance(value, int) else value


def simple(value):
    """The number that a term is, if it is one whatever happens; else a shorter term."""
    if isinstance(value, int):
        return value
    value = z3.simplify(value)
    return value.as_long() if z3.is_bv_value(value) else value


def part(value, bits, low, width):
    """`width` bits of a value of `bits` bits, from bit `low` on."""
    if isinstance(value, int):
        return (value >> low) & mask(width)
    return value if (low, width) == (0, bits) else z3.Extract(low + width - 1, low, value)


def joined(parts):
    """A value made of `(value, bits)`, the lowest first."""
    if all(isinstance(value, int) for value, _ in parts):
        whole, at = 0, 0
        for value, bits in parts:
            whole |= value << at
            at += bits
        return whole
    terms = [term(value, bits) for value, bits in reversed(parts)]
    return terms[0] if len(terms) == 1 else z3.Concat(*terms)


def chosen(condition, yes, no, bits):
    """One of two values, by a condition that is a bool or a term of Z3."""
    if isinstance(condition, bool):
        return yes if condition else no
    if isinstance(yes, int) and isinstance(no, int) and yes == no:
        return yes
    return z3.If(condition, term(yes, bits), term(no, bits))


def is_set(bit):
    """A value of one bit as a condition."""
    return bool(bit) if isinstance(bit, int) else bit == 1


class Image:
    """A shared library in memory, and the functions in it."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self._read(ELFFile(file))
        self.path = path
        self.blocks, self.within, self.jumps = {}, {}, {}

    def _read(self, elf):
        self.segments = []
        for segment in elf.iter_segments("PT_LOAD"):
            data = bytearray(segment.data().ljust(segment["p_memsz"], b"\0"))
            self.segments.append((IMAGE + segment["p_vaddr"], data, bool(segment["p_flags"] & 2)))
        self.functions, self.named = [], {}
        for symbol in elf.get_section_by_name(".symtab").iter_symbols():
            if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_value"]:
                begin = IMAGE + symbol["st_value"]
                self.functions.append((begin, begin + symbol["st_size"], symbol.name))
                self.named[symbol.name] = begin
        self._relocate(elf)

    def _relocate(self, elf):
        """Fills in addresses of the library itself; those of other libraries stay 0, and lead nowhere."""
        for name in (".rela.dyn", ".rela.plt"):
            table = elf.get_section_by_name(name)
            if table is None:
                continue
            symbols = elf.get_section(table["sh_link"])
            for entry in table.iter_relocations():
                kind, value = entry["r_info_type"], 0
                if kind == 8:  # R_X86_64_RELATIVE
                    value = IMAGE + entry["r_addend"]
                elif kind in (1, 6, 7):  # R_X86_64_64, _GLOB_DAT, _JUMP_SLOT
                    symbol = symbols.get_symbol(entry["r_info_sym"])["st_value"]
                    value = IMAGE + symbol + (entry["r_addend"] if kind == 1 else 0) if symbol else 0
                self._put(IMAGE + entry["r_offset"], value)

    def _put(self, at, value):
        for begin, data, _ in self.segments:
            if begin <= at < begin + len(data):
                data[at - begin : at - begin + 8] = value.to_bytes(8, "little")

    def octet(self, at):
        for begin, data, _ in self.segments:
            if begin <= at < begin + len(data):
                return data[at - begin]
        return None

    def begin(self, at):
        """Where the function begins that an instruction is in; nowhere outside of all."""
        return next((begin for begin, end, _ in self.functions if begin <= at < end), RETURN)

    def function(self, at):
        """The name of the function that an instruction is in."""
        if at not in self.within:
            self.within[at] = next((name for begin, end, name in self.functions if begin <= at < end), None)
        return self.within[at]

    def leads(self, at, targets):
        """Notes where the jump at the end of a block leads. Whether all of that was known."""
        known = self.jumps.setdefault(at, set())
        new = not known.issuperset(targets)
        known.update(targets)
        return not new

    def order(self, entry):
        """Blocks by address, each with its number in an order in which all that leads to a block comes before it, loops apart."""
        if entry == RETURN:
            return {}
        finished, seen, open_blocks = [], {entry}, [(entry, iter(self._next(entry)))]
        while open_blocks:
            at, others = open_blocks[-1]
            other = next((one for one in others if one not in seen), None)
            if other is None:
                finished.append(at)
                open_blocks.pop()
            else:
                seen.add(other)
                open_blocks.append((other, iter(self._next(other))))
        return {at: number for number, at in enumerate(reversed(finished))}

    def only_returns(self, at):
        """Whether nothing is decided any more before the function returns to its caller."""
        while at != RETURN:
            block = self.block(at)
            if any(statement.tag == "Ist_Exit" for statement in block.statements) or block.jumpkind == "Ijk_Call":
                return False
            if block.jumpkind == "Ijk_Ret":
                return True
            if block.next.tag != "Iex_Const":
                return False
            at = block.next.con.value
        return True

    def _next(self, at):
        """Where a block of the entry's own function leads."""
        block = self.block(at)
        exits = [statement.dst.value for statement in block.statements if statement.tag == "Ist_Exit"]
        if block.jumpkind == "Ijk_Call":
            return [*exits, at + block.size]
        constant = [block.next.con.value] if block.next.tag == "Iex_Const" else []
        return [one for one in (*exits, *constant, *self.jumps.get(at, ())) if self.function(one) == self.function(at)]

    def block(self, at):
        """The block of instructions from an address on, lifted."""
        if at not in self.blocks:
            code = bytes(self.octet(at + i) or 0 for i in range(400))
            self.blocks[at] = pyvex.lift(code, at, ARCH, opt_level=1, max_bytes=400)
        return self.blocks[at]


class Region:
    """Memory that may be read, and perhaps written. Where `length` is a term, only so much of `room` octets exists."""

    def __init__(self, name, begin, room, length=None, writable=True):
        self.name, self.begin, self.room, self.length, self.writable = name, begin, room, length, writable

    def has(self, at):
        return self.begin <= at < self.begin + self.room


class State:
    """Registers and memory on one path. Memory is what has been written over what was there in the beginning."""

    def __init__(self, beginning):
        self.beginning, self.registers, self.written = beginning, {}, {}
        self.at, self.instructions, self.proven = 0, 0, 0

    def fork(self):
        other = State(self.beginning)
        other.registers, other.written = dict(self.registers), dict(self.written)
        other.at, other.instructions, other.proven = self.at, self.instructions, self.proven
        return other

    def is_dead(self, at):
        """Whether memory lies below the stack and its red zone."""
        return STACK - STACK_SIZE <= at < self.registers[register("rsp")] - 128

    def cell(self, at):
        return self.written.get(at) or self.beginning(at)

    def load(self, at, size):
        """A value from memory. Octets that belong together, because they were written together, stay together."""
        parts = []
        for place in range(at, at + size):
            cell = self.cell(place)
            if parts and parts[-1][0] is cell[0] and parts[-1][3] == cell[2]:
                parts[-1][3] += 1
            else:
                parts.append([cell[0], cell[1], cell[2], cell[2] + 1])
        return joined([(part(v, 8 * n, 8 * low, 8 * (high - low)), 8 * (high - low)) for v, n, low, high in parts])

    def store(self, at, value, size):
        value = simple(value)
        for index in range(size):
            self.written[at + index] = (value, size, index)

    def get(self, offset, bits):
        if bits == 128:
            return joined([(self.get(offset, 64), 64), (self.get(offset + 8, 64), 64)])
        word = self.registers.get(offset & ~7)
        if word is None:
            raise NotUnderstood(f"a register that nobody has set is read: {ARCH.translate_register_name(offset)}")
        return part(word, 64, 8 * (offset & 7), bits)

    def put(self, offset, value, bits):
        if bits == 128:
            self.put(offset, part(value, 128, 0, 64), 64)
            self.put(offset + 8, part(value, 128, 64, 64), 64)
        elif bits == 64:
            self.registers[offset] = simple(value)
        else:
            base, low = offset & ~7, 8 * (offset & 7)
            old = self.registers.get(base, 0)
            ends = [(0, low), (low + bits, 64 - low - bits)]
            below, above = ((part(old, 64, begin, width) if width else 0, width) for begin, width in ends)
            parts = [below, (value, bits), above]
            self.registers[base] = simple(joined([one for one in parts if one[1]]))


def merged(states, conditions):
    """One state for several at the same place, of which exactly one condition each holds."""
    first = states[0]
    one = State(first.beginning)
    one.at = first.at
    one.instructions = max(state.instructions for state in states)
    one.proven = min(state.proven for state in states)
    for offset in first.registers:
        if all(offset in state.registers for state in states):
            one.registers[offset] = simple(_either([state.registers[offset] for state in states], conditions, 64))
    # What lies below the stack and its red zone is nobody's any more.
    for at in sorted(set().union(*(state.written for state in states))):
        if first.is_dead(at) or at in one.written:
            continue
        if STACK - STACK_SIZE <= at < STACK and not all(at in state.written for state in states):
            # One of them has never written there, so nothing is said of it, and nobody may ask.
            continue
        cells = [state.cell(at) for state in states]
        size = cells[0][1] if len({(size, index) for _, size, index in cells}) == 1 and cells[0][2] == 0 else 1
        values = [state.load(at, size) for state in states]
        one.store(at, _either(values, conditions, 8 * size), size)
    return one


def _either(values, conditions, bits):
    """The value whose condition holds."""
    kinds = {}
    for value, condition in zip(values, conditions):
        key = ("number", value) if isinstance(value, int) else ("term", value.get_id())
        kinds.setdefault(key, (value, []))[1].append(condition)
    (result, _), *others = kinds.values()
    for value, when in others:
        result = z3.If(z3.Or(*when), term(value, bits), term(result, bits))
    return result


def register(name):
    return ARCH.registers[name][0]


class Model:
    """Values for symbols; those that are not named are 0."""

    def __init__(self, values):
        self.known, self.seen = values, {}

    def changed(self, values):
        return Model(self.known | values)

    def _filled(self, what):
        if what.get_id() in self.seen:
            return self.seen[what.get_id()][0]
        self.seen[what.get_id()] = (self._fill(what), what)
        return self.seen[what.get_id()][0]

    def _fill(self, what):
        values = [(symbol, z3.BitVecVal(self.known.get(name, 0), symbol.size())) for name, symbol in symbols(what).items()]
        return z3.simplify(z3.substitute(what, *values))

    def value(self, what):
        return what if isinstance(what, int) else self._filled(what).as_long()

    def fulfils(self, condition):
        return z3.is_true(self._filled(condition))


SYMBOLS = {}


def symbols(what):
    """The symbols in a term or condition, by name."""
    known = SYMBOLS.get(what.get_id())
    if known is None:
        if z3.is_const(what):
            known = {} if what.decl().kind() != z3.Z3_OP_UNINTERPRETED else {what.decl().name(): what}
        else:
            known = {}
            for child in what.children():
                known = known | symbols(child)
        # The term is kept with its symbols: its number stays its own.
        SYMBOLS[what.get_id()] = (known, what)
        return known
    return known[0]


def rests_on_guess(what):
    return any(name.startswith(GUESS) for name in symbols(what))


class Questions:
    """Asks Z3. A question takes in only those conditions of the path that share symbols with it, directly or by others; so the
    same question comes back on many paths, and is answered once."""

    def __init__(self):
        self.answers, self.asked, self.solved = {}, 0, 0

    def ask(self, path, condition):
        """Values with which a condition and all those of the path hold; nothing where there are none."""
        self.asked += 1
        concerned = self._concerned(path, condition)
        key = frozenset(one.get_id() for one in concerned)
        if key not in self.answers:
            self.answers[key] = (self._solve(concerned), concerned)
        return self.answers[key][0]

    def _concerned(self, path, condition):
        names, concerned, others = set(symbols(condition)), [condition], path
        while True:
            left = []
            for one in others:
                if names.isdisjoint(symbols(one)):
                    left.append(one)
                else:
                    concerned.append(one)
                    names.update(symbols(one))
            if len(left) == len(others):
                return concerned
            others = left

    def _solve(self, conditions):
        self.solved += 1
        solver = z3.SolverFor("QF_BV")
        solver.add(*conditions)
        answer = solver.check()
        if answer == z3.unknown:
            raise NotUnderstood(f"Z3 gives up: {solver.reason_unknown()}")
        if answer == z3.unsat:
            return None
        model = solver.model()
        named = {}
        for one in conditions:
            named |= symbols(one)
        return {name: model.eval(symbol, model_completion=True).as_long() for name, symbol in named.items()}


class Machine:
    """Follows an entry of a library along every path."""

    def __init__(self, image, regions, inside, together=False):
        """`inside` says by its name whether a function may be entered. Where paths come `together` they are followed on as one,
        whatever has led there; no path is lost by that. Else each is followed to its own end."""
        self.image, self.regions, self.inside, self.together = image, regions, inside, together
        # Functions of whoever proves, by the address of the block that they are called at.
        self.watched = {}
        # Called before each block that is executed.
        self.progress = lambda _: None
        self.questions, self.path, self.model = Questions(), [], Model({})
        self.paths = self.instructions = self.longest = self.accesses = 0
        self.lemmas, self.known, self.shown = (), set(), collections.Counter()
        self.guesses, self.turns, self.products, self.sums, self.merges = 0, 0, {}, {}, {}

    # What is possible.

    def possible(self, condition):
        """A model of the path on which a condition holds, or nothing where there is none."""
        condition = z3.BoolVal(condition) if isinstance(condition, bool) else z3.simplify(condition)
        if z3.is_false(condition):
            return None
        if z3.is_true(condition) or self.model.fulfils(condition):
            return self.model
        if self._is_refuted(condition):
            return None
        answer = self.questions.ask(self.path, condition)
        return None if answer is None else self.model.changed(answer)

    def require(self, name, condition, text):
        """Shows that a condition holds on this path, or raises a `Violation`."""
        self.shown[name] += 1
        if not isinstance(condition, bool) and condition.get_id() in self.known:
            return
        contrary = z3.BoolVal(not condition) if isinstance(condition, bool) else z3.simplify(z3.Not(condition))
        if z3.is_false(contrary):
            return
        # Most of it follows already from what was found last. Few conditions are quickly asked.
        if self._is_refuted(contrary):
            return
        answer = self.questions.ask(self.path, contrary)
        if answer is not None:
            model = self.model.changed(answer)
            raise Violation(name, text, model)

    def _is_refuted(self, condition):
        """Whether some of the path's last conditions alone exclude a condition."""
        recent = [one for one in self.path if one.get_id() not in self.merges and one.get_id() not in self.definitions]
        return any(self.questions.ask(recent[-few:], condition) is None for few in (3, 8, len(recent)))

    def values(self, value, bits):
        """All values that a term can have on this path."""
        found, others = [], []
        while (model := self.possible(z3.And(*others))) is not None:
            found.append(model.value(value))
            others.append(value != found[-1])
            if len(found) > PLACES_MAX:
                raise NotUnderstood(f"an address has more than {PLACES_MAX} values")
        return found

    def few_values(self, value, most=4):
        """All values that a term can have on this path, or nothing where these are more."""
        found = []
        while (model := self.possible(z3.And(*(value != one for one in found)))) is not None:
            found.append(model.value(value))
            if len(found) > most:
                return None
        return found

    @contextlib.contextmanager
    def where(self, condition):
        """Within it, a condition that is possible holds."""
        before, length, self.model = self.model, len(self.path), self.possible(condition)
        self.path.append(z3.simplify(condition))
        yield
        del self.path[length:]
        self.model = before

    def guessed(self, path=None):
        """Whether the model at hand rests on what stands `SOMEWHERE`, and so on more than there can be."""
        for condition in self.path if path is None else path:
            if not rests_on_guess(condition):
                continue
            ways = self.merges.get(condition.get_id(), ())
            taken = next((way for way, together in ways if self.model.fulfils(together)), None)
            if taken is None or self.guessed(taken):
                return True
        return False

    # Paths.

    def run(self, state, assumptions, end):
        """Follows all paths from a state on. `end` is called at the end of each."""
        while True:
            with contextlib.suppress(AnotherWay):
                self._run(state.fork(), assumptions, end)
                return

    def _run(self, state, assumptions, end):
        self.path, self.model, self.end = [], Model({}), end
        self.paths = self.instructions = self.longest = self.accesses = self.guesses = 0
        self.shown, self.merges, self.waiting, self.places = collections.Counter(), {}, {}, []
        self.products, self.sums, self.definitions = {}, {}, {}
        for condition in assumptions:
            self.model = self.possible(condition)
            if self.model is None:
                raise NotUnderstood("nothing fulfils the assumptions")
            self.path.append(z3.simplify(condition))
        self.orders, self.entry = {}, state.at
        self._wait(state)
        while self.places:
            self.progress(self)
            *_, place = heapq.heappop(self.places)
            self._follow(self._as_one(self.waiting.pop(place)))

    def _wait(self, state):
        """Puts a state aside until it is its turn. Those that it comes together with will all be there then: whatever leads to
        a place comes before it, and what is called is done before its caller goes on. Each end is looked at by itself, and at once."""
        stack, self.turns = state.registers[register("rsp")], self.turns + 1
        if not self.together or self._is_end(state.at):
            turn, place = (0, -self.turns), (state.at, object())
        else:
            turn, place = (stack, self._rank(state.at)), (state.at, stack)
        if place not in self.waiting:
            heapq.heappush(self.places, (*turn, self.turns, place))
        self.waiting.setdefault(place, []).append((state, list(self.path), self.model))

    def _is_end(self, at):
        """Whether nothing is decided any more in the entry."""
        return self.image.begin(at) in (self.entry, RETURN) and self.image.only_returns(at)

    def _rank(self, at):
        """The turn of a block among those of its function."""
        begin = self.image.begin(at)
        if begin not in self.orders:
            self.orders[begin] = self.image.order(begin)
        return self.orders[begin].get(at, len(self.orders[begin]))

    def _as_one(self, group):
        """One state for all that are at one place. What is known from here on is known of each."""
        states, paths, models = zip(*group)
        self.model, self.known = models[0], set()
        if len(states) == 1:
            self.path = list(paths[0])
            return states[0]
        state = self._either_way(states, paths)
        self.known = {lemma.get_id() for lemma in self.lemmas if self.possible(z3.Not(lemma)) is None}
        return state

    def _either_way(self, states, paths):
        everywhere = set.intersection(*({one.get_id() for one in path} for path in paths))
        self.path = [one for one in paths[0] if one.get_id() in everywhere]
        own = [[one for one in path if one.get_id() not in everywhere] for path in paths]
        ways = [z3.And(*conditions) for conditions in own]
        either = z3.simplify(z3.Or(*ways))
        if not z3.is_true(either):
            self.merges[either.get_id()] = list(zip(own, ways))
            self.path.append(either)
        return merged(states, ways)

    def _product(self, values, bits):
        """The product of two terms is hard for Z3, and no property is about one: whatever it is, but the same of the same."""
        values = [z3.simplify(value) for value in values]
        key = (bits, *sorted(value.get_id() for value in values))
        if key not in self.products:
            self.products[key] = (self._guess(bits), values)
        return self.products[key][0]

    def _sum(self, values):
        """The sum of two terms of 64 bits. Where it rests on a guess, all of it but the constant gets a name: a bound that has just
        been shown of the name is used without a look at what the sum is made of."""
        total = simple(values[0] + values[1])
        if isinstance(total, int) or not rests_on_guess(total):
            return total
        whole = z3.simplify(z3.substitute(total, *((name, sum_) for name, sum_ in self.sums.values())))
        parts = whole.children() if z3.is_app_of(whole, z3.Z3_OP_BADD) else [whole]
        constant = next((one for one in parts if z3.is_bv_value(one)), z3.BitVecVal(0, 64))
        rest = simple(whole - constant)
        if z3.is_const(rest):
            return total
        if rest.get_id() not in self.sums:
            self.sums[rest.get_id()] = (self._guess(64), rest)
        name, _ = self.sums[rest.get_id()]
        definition = name == rest
        if not any(one.eq(definition) for one in self.path):
            self.definitions[definition.get_id()] = definition
            self.path.append(definition)
            self.model = self.model.changed({name.decl().name(): self.model.value(rest)})
        return simple(name + constant)

    def _guess(self, bits):
        self.guesses += 1
        return z3.BitVec(f"{GUESS}{self.guesses}", bits)

    def _follow(self, state):
        """Executes the block that a state is at, and lets all that follows wait."""
        if state.at == RETURN:
            self.paths += 1
            self.shown["ends"] += 1
            self.instructions += state.instructions
            self.longest = max(self.longest, state.instructions)
            self.end(state)
            return
        self._enter(state)
        if state.at in self.watched:
            self.watched[state.at](state)
        if not self._block(state):
            self._wait(state)

    def _enter(self, state):
        name = self.image.function(state.at)
        self.shown["no panic"] += 1
        if name is None or not self.inside(name):
            raise Violation("no panic", f"execution leaves the pipeline for {name or hex(state.at)}", self.model)
        if state.instructions > INSTRUCTIONS_MAX:
            raise Violation("ends", f"a path takes more than {INSTRUCTIONS_MAX} instructions", self.model)

    def _branch(self, condition, state, way):
        """Follows a path on, where a condition holds. `way` leads on."""
        model = self.possible(condition)
        if model is None:
            return
        before, length, self.model = self.model, len(self.path), model
        self.path.append(z3.simplify(condition))
        way(state)
        del self.path[length:]
        self.model = before

    def _block(self, state):
        """Executes a block. Whether all that follows it has been followed."""
        block = self.image.block(state.at)
        return self._statements(state, block, {}, 0)

    def _statements(self, state, block, temps, begin):
        types = block.tyenv
        for index in range(begin, len(block.statements)):
            statement = block.statements[index]
            kind = statement.tag
            if kind == "Ist_WrTmp":
                bits = types.sizeof(statement.tmp)
                temps[statement.tmp] = self._value(state, types, temps, statement.data, bits)
            elif kind == "Ist_Put":
                data = statement.data
                state.put(statement.offset, self._read(temps, data), data.result_size(types))
            elif kind == "Ist_IMark":
                state.instructions += 1
            elif kind == "Ist_Store":
                data = statement.data
                self._store(state, self._read(temps, statement.addr), self._read(temps, data), data.result_size(types))
            elif kind == "Ist_CAS":
                self._exchange(state, types, temps, statement)
            elif kind == "Ist_Exit":
                guard = is_set(self._read(temps, statement.guard))
                if isinstance(guard, bool):
                    if guard:
                        self._leave(state, statement.dst.value, statement.jumpkind)
                        return False
                    continue
                guard = z3.simplify(guard)

                def away(other, statement=statement):
                    self._leave(other, statement.dst.value, statement.jumpkind)
                    self._wait(other)

                def on(other, index=index):
                    if not self._statements(other, block, temps, index + 1):
                        self._wait(other)

                self._branch(guard, state.fork(), away)
                self._branch(z3.Not(guard), state, on)
                return True
            elif kind not in ("Ist_AbiHint", "Ist_NoOp", "Ist_MBE"):
                raise NotUnderstood(f"{statement} at {state.at:#x}")
        target = simple(self._read(temps, block.next))
        if isinstance(target, int):
            self._leave(state, target, block.jumpkind)
            return False
        targets = self.values(target, 64)
        if self.together and not self.image.leads(state.at, targets):
            raise AnotherWay
        for one in targets:

            def there(other, one=one):
                self._leave(other, one, block.jumpkind)
                self._wait(other)

            self._branch(target == one, state.fork(), there)
        return True

    def _leave(self, state, target, kind):
        if kind not in ("Ijk_Boring", "Ijk_Call", "Ijk_Ret"):
            raise Violation("no panic", f"the processor traps at {state.at:#x} ({kind})", self.model)
        state.at = target

    # Memory.

    def _within(self, state, at, size, write):
        """Shows that an access is to memory that there is. The addresses that it can have."""
        self.accesses += 1
        at = simple(at)
        sample = at if isinstance(at, int) else self.model.value(at)
        region = next((region for region in self.regions if region.has(sample)), None)
        what = f"{'writes' if write else 'reads'} {size} octets at {state.at:#x} in {self.image.function(state.at)}"
        if region is None or (write and not region.writable):
            raise Violation("memory", f"{what}, where it must not ({region.name if region else hex(sample)})", self.model)
        limit = region.room if region.length is None else region.length
        if isinstance(at, int):
            last = at - region.begin + size
            if isinstance(limit, int):
                self.require("memory", last <= limit, f"{what}, beyond {region.name}")
            elif last > state.proven:
                self.require("memory", z3.ULE(last, limit), f"{what}, beyond {region.name}")
                state.proven = last
            return [at]
        offset = at - region.begin
        inside = z3.And(z3.ULE(offset, region.room - size), z3.ULE(offset + size, term(limit, 64)))
        self.require("memory", inside, f"{what}, beyond {region.name}")
        if write or isinstance(limit, int):
            return self.values(at, 64)
        return (None if rests_on_guess(at) else self.few_values(at)) or [SOMEWHERE]

    def _load(self, state, at, bits):
        at, size = simple(at), bits // 8
        places = self._within(state, at, size, False)
        if places == [SOMEWHERE]:
            # Whatever stands there, and something else each time: more than there can be, and so all that there can be.
            return self._guess(bits)
        value = state.load(places[0], size)
        for place in places[1:]:
            value = chosen(at == place, state.load(place, size), value, bits)
        value = simple(value) if len(places) > 1 else value
        return value

    def _store(self, state, at, value, bits):
        at, size = simple(at), bits // 8
        places = self._within(state, at, size, True)
        for place in places:
            here = value if len(places) == 1 else chosen(at == place, value, state.load(place, size), bits)
            state.store(place, here, size)

    def _exchange(self, state, types, temps, statement):
        """Compare and swap of one word, and all that is made of it: additions under a lock."""
        if statement.dataHi is not None:
            raise NotUnderstood(f"{statement} at {state.at:#x}")
        bits = statement.dataLo.result_size(types)
        at, new = self._read(temps, statement.addr), self._read(temps, statement.dataLo)
        expected = self._read(temps, statement.expdLo)
        old = self._load(state, at, bits)
        temps[statement.oldLo] = old
        same = simple(term(old, bits) - term(expected, bits))
        equal = same == 0 if isinstance(same, int) else term(old, bits) == term(expected, bits)
        self._store(state, at, chosen(equal, new, old, bits), bits)

    # Values.

    def _read(self, temps, data):
        if data.tag == "Iex_RdTmp":
            return temps[data.tmp]
        if data.tag == "Iex_Const":
            return data.con.value
        raise NotUnderstood(f"{data}")

    def _value(self, state, types, temps, data, bits):
        kind = data.tag
        if kind == "Iex_RdTmp":
            return temps[data.tmp]
        if kind == "Iex_Get":
            return state.get(data.offset, bits)
        if kind in ("Iex_Binop", "Iex_Unop"):
            values = [self._read(temps, one) for one in data.args]
            widths = [one.result_size(types) for one in data.args]
            if data.op.startswith("Iop_DivMod"):
                return self._divide(state, data.op, values, widths)
            if data.op.startswith("Iop_Mul") and not any(isinstance(one, int) for one in values):
                return self._product(values, bits)
            if data.op == "Iop_Add64" and not any(isinstance(one, int) for one in values):
                return self._sum(values)
            return operate(data.op, values, widths, bits)
        if kind == "Iex_Load":
            return self._load(state, self._read(temps, data.addr), bits)
        if kind == "Iex_Const":
            return data.con.value
        if kind == "Iex_ITE":
            condition = is_set(self._read(temps, data.cond))
            return chosen(condition, self._read(temps, data.iftrue), self._read(temps, data.iffalse), bits)
        if kind == "Iex_CCall":
            return flags(data.callee.name, [self._read(temps, one) for one in data.args])
        raise NotUnderstood(f"{data} at {state.at:#x}")

    def _divide(self, state, op, values, widths):
        """The processor's division: it traps where the quotient has no room. Quotient and remainder are guessed."""
        match = re.fullmatch(r"Iop_DivModU(\d+)to(\d+)", op)
        if not match:
            raise NotUnderstood(op)
        wide, narrow = int(match[1]), int(match[2])
        high, divisor = part(values[0], wide, narrow, narrow), term(values[1], narrow)
        self.require("no panic", divisor != 0, f"a division by zero at {state.at:#x}")
        self.require("no panic", z3.ULT(term(high, narrow), divisor), f"a division whose quotient has no room at {state.at:#x}")
        return self._guess(wide)


# What VEX's operations do.

ARITHMETIC = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "And": lambda a, b: a & b,
    "Or": lambda a, b: a | b,
    "Xor": lambda a, b: a ^ b,
}
COMPARE = {
    "CmpEQ": lambda a, b: a == b,
    "CmpNE": lambda a, b: a != b,
    "CasCmpEQ": lambda a, b: a == b,
    "CasCmpNE": lambda a, b: a != b,
    "ExpCmpNE": lambda a, b: a != b,
}
ORDER = {"LTU": z3.ULT, "LEU": z3.ULE, "LTS": lambda a, b: a < b, "LES": lambda a, b: a <= b}
PATTERNS = [
    ("arithmetic", re.compile(r"Iop_(Add|Sub|Mul|And|Or|Xor)V?(\d+)")),
    ("shift", re.compile(r"Iop_(Shl|Shr|Sar)(\d+)")),
    ("compare", re.compile(r"Iop_(CmpEQ|CmpNE|CasCmpEQ|CasCmpNE|ExpCmpNE)(\d+)")),
    ("order", re.compile(r"Iop_Cmp(LT|LE)(\d+)(U|S)")),
    ("not", re.compile(r"Iop_NotV?(\d+)")),
    ("join", re.compile(r"Iop_(\d+)HLtoV?(\d+)")),
    ("high", re.compile(r"Iop_V?(\d+)HIto(\d+)")),
    ("extend", re.compile(r"Iop_(\d+)(U|S)toV?(\d+)")),
    ("narrow", re.compile(r"Iop_V?(\d+)to(\d+)")),
    ("widen", re.compile(r"Iop_Mull(U|S)(\d+)")),
]
KNOWN = {}


def operate(op, values, widths, bits):
    """The result, of `bits` bits, of one of VEX's operations."""
    if op not in KNOWN:
        found = ((name, pattern.fullmatch(op)) for name, pattern in PATTERNS)
        KNOWN[op] = next(((name, match.groups()) for name, match in found if match), None)
    if KNOWN[op] is None:
        raise NotUnderstood(op)
    name, words = KNOWN[op]
    return OPERATIONS[name](words, values, widths, bits)


def _arithmetic(words, values, widths, bits):
    a, b = values
    if isinstance(a, int) and isinstance(b, int):
        return ARITHMETIC[words[0]](a, b) & mask(bits)
    if words[0] == "And" and 0 in (a if isinstance(a, int) else 1, b if isinstance(b, int) else 1):
        return 0
    return ARITHMETIC[words[0]](term(a, bits), term(b, bits))


def _shift(words, values, widths, bits):
    value, by = values
    if isinstance(by, int) and isinstance(value, int):
        if words[0] == "Sar" and value >> (bits - 1):
            value -= 1 << bits
        return (value << by if words[0] == "Shl" else value >> by) & mask(bits)
    value, by = term(value, bits), term(by, 8)
    by = z3.ZeroExt(bits - 8, by) if bits > 8 else by
    return {"Shl": lambda: value << by, "Shr": lambda: z3.LShR(value, by), "Sar": lambda: value >> by}[words[0]]()


def _bit(condition):
    return int(condition) if isinstance(condition, bool) else z3.If(condition, z3.BitVecVal(1, 1), z3.BitVecVal(0, 1))


def _compare(words, values, widths, bits):
    a, b = values
    if not (isinstance(a, int) and isinstance(b, int)):
        a, b = term(a, widths[0]), term(b, widths[0])
    return _bit(COMPARE[words[0]](a, b))


def _order(words, values, widths, bits):
    a, b = (term(value, widths[0]) for value in values)
    return simple(_bit(ORDER[words[0] + words[2]](a, b)))


def _not(words, values, widths, bits):
    return ~values[0] & mask(bits) if isinstance(values[0], int) else ~values[0]


def _join(words, values, widths, bits):
    return joined([(values[1], widths[1]), (values[0], widths[0])])


def _high(words, values, widths, bits):
    return part(values[0], widths[0], widths[0] - bits, bits)


def _extend(words, values, widths, bits):
    value, more = values[0], bits - widths[0]
    if isinstance(value, int):
        negative = words[1] == "S" and value >> (widths[0] - 1)
        return value | (mask(more) << widths[0] if negative else 0)
    return z3.SignExt(more, value) if words[1] == "S" else z3.ZeroExt(more, value)


def _narrow(words, values, widths, bits):
    return part(values[0], widths[0], 0, bits)


def _widen(words, values, widths, bits):
    extend = z3.SignExt if words[0] == "S" else z3.ZeroExt
    a, b = (extend(bits - widths[0], term(value, widths[0])) for value in values)
    return simple(a * b)


OPERATIONS = {
    "arithmetic": _arithmetic,
    "shift": _shift,
    "compare": _compare,
    "order": _order,
    "not": _not,
    "join": _join,
    "high": _high,
    "extend": _extend,
    "narrow": _narrow,
    "widen": _widen,
}

# The processor's flags, which VEX computes only where they are asked for: from what the last instruction was and its operands.
# The numbers are those of VEX's guest_amd64_defs.h.

FLAG_OPERATIONS = ("ADD", "SUB", "ADC", "SBB", "LOGIC", "INC", "DEC", "SHL", "SHR")
CONDITIONS = ("O", "B", "Z", "BE", "S", "P", "L", "LE")


def flags(callee, arguments):
    """What VEX's helpers say: a condition as 0 or 1, or the carry."""
    if callee == "amd64g_calculate_condition":
        condition, *operands = arguments
        if not isinstance(condition, int):
            raise NotUnderstood(callee)
        holds = _condition(CONDITIONS[condition >> 1], *operands)
        holds = z3.Not(holds) if condition & 1 else holds
    elif callee == "amd64g_calculate_rflags_c":
        holds = _condition("B", *arguments)
    elif callee == "amd64g_calculate_rflags_all":
        return _all_flags(arguments)
    else:
        raise NotUnderstood(callee)
    return simple(z3.If(holds, z3.BitVecVal(1, 64), z3.BitVecVal(0, 64)))


def _all_flags(arguments):
    """The register of flags. Half-carry and parity may be anything: nothing that is understood asks for them."""
    anything = z3.FreshConst(z3.BitVecSort(64), "flags") & 0x14
    places = {"B": 0, "Z": 6, "S": 7, "O": 11}
    bits = (z3.If(_condition(name, *arguments), z3.BitVecVal(1 << at, 64), z3.BitVecVal(0, 64)) for name, at in places.items())
    return functools.reduce(lambda a, b: a | b, bits, anything)


def _condition(name, operation, first, second, third):
    if not isinstance(operation, int) or not 1 <= operation <= 4 * len(FLAG_OPERATIONS):
        raise NotUnderstood(f"the flags of operation {operation}")
    kind, bits = FLAG_OPERATIONS[(operation - 1) >> 2], 8 << ((operation - 1) & 3)
    a, b, c = (part(value, 64, 0, bits) for value in (first, second, third))
    a, b, c = term(a, bits), term(b, bits), term(c, bits)
    result, carry, overflow = _outcome(kind, bits, a, b, c)
    zero, sign = result == 0, result < 0
    return {
        "O": lambda: overflow(),
        "B": lambda: carry(),
        "Z": lambda: zero,
        "BE": lambda: z3.Or(carry(), zero),
        "S": lambda: sign,
        "L": lambda: z3.Xor(sign, overflow()),
        "LE": lambda: z3.Or(zero, z3.Xor(sign, overflow())),
    }.get(name, lambda: _unknown(name))()


def _unknown(what):
    raise NotUnderstood(f"the flag {what}")


def _outcome(kind, bits, a, b, c):
    """Result, carry and overflow of an instruction, from what VEX keeps of it."""
    low, high = z3.BitVecVal(1 << (bits - 1), bits), z3.BoolVal(False)
    if kind == "ADD":
        result = a + b
        return result, lambda: z3.ULT(result, a), lambda: (~(a ^ b) & (a ^ result)) < 0
    if kind == "SUB":
        return a - b, lambda: z3.ULT(a, b), lambda: ((a ^ b) & (a ^ (a - b))) < 0
    if kind == "ADC":
        other = b ^ c
        result = a + other + c
        carry = z3.If(c != 0, z3.ULE(result, a), z3.ULT(result, a))
        return result, lambda: carry, lambda: (~(a ^ other) & (a ^ result)) < 0
    if kind == "SBB":
        other = b ^ c
        result = a - other - c
        carry = z3.If(c != 0, z3.ULE(a, other), z3.ULT(a, other))
        return result, lambda: carry, lambda: ((a ^ other) & (a ^ result)) < 0
    if kind == "LOGIC":
        return a, lambda: high, lambda: high
    if kind == "INC":
        return a, lambda: c & 1 == 1, lambda: a == low
    if kind == "DEC":
        return a, lambda: c & 1 == 1, lambda: a == low - 1
    if kind == "SHL":
        return a, lambda: b < 0, lambda: _unknown("overflow of a shift")
    return a, lambda: b & 1 == 1, lambda: _unknown("overflow of a shift")
