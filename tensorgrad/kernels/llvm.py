"""The machine code that goes through programs (native.py), in LLVM's language."""

from __future__ import annotations

from typing import Any

# The first words of a program: how many patches there are, and their address; the address of the first call; how often a run
# does all calls, and how often it still has to; how many shifts, and their address
PATCHES, PATCHES_AT, FIRST, COUNT, LEFT, SHIFTS, SHIFTS_AT, HEADER = range(8)
PATCH, SHIFT = 3, 2  # words of each
MOST_GIVEN = 8  # arrays at most that are other ones at each run
DATA = object.__basicsize__  # where an array object has the address of its data: right after what every object has
ARITIES = (24, 48, 96, 192, 384)  # a call with more words than the code takes does no harm, so a few forms are enough
ERRORS = 13  # C's FE_INVALID, FE_DIVBYZERO and FE_OVERFLOW, on x86
# Functions of 0-d arrays, and LLVM's words for them
NUMBERS = {"add": "fadd", "subtract": "fsub", "multiply": "fmul", "divide": "fdiv", "negative": "fneg"}
RAISED = -(2**62)  # the result of a kernel that has raised
# A team of threads: first words for all of it: whether it is at work; the address of sets of processors, for each processor all
# others, how many bytes such a set has, and how many sets there are (0: nobody is told where to run)
TEAM, BUSY, OTHERS, SET_BYTES, SETS = 32, 0, 1, 2, 3
# Then for each thread a slot, its words cache lines apart: the part that it is to run; whether it sleeps; whether it has run
# the part (1, or 3 if that has stopped); whether somebody sleeps until it has; its number for the system; the processor that
# it keeps away from, counted from 1
SLOT, JOB, SLEEPS, DONE, AWAITED, THREAD, AVOIDED = 40, 0, 8, 16, 24, 32, 33
SPIN = 300_000  # cycles (a tenth of a millisecond) that a thread waits for its next part before it sleeps
LOOKS = 2_048  # at a thread that has a part, before whoever waits for it sleeps: that thread may wait for the same core
FUTEX, WAIT, WAKE, SET_AFFINITY, GET_THREAD = 202, 128, 129, 203, 186  # of Linux, on x86-64


class Writer:
    """Writes the code in LLVM's language."""

    def __init__(self, ir: Any, wide: bool) -> None:
        self.ir, self.module = ir, ir.Module("tensorgrad_native")
        self.word, self.int32 = ir.IntType(64), ir.IntType(32)
        self.blas_int = self.word if wide else self.int32
        of_flags = ir.FunctionType(self.int32, [self.int32])
        self.test = ir.Function(self.module, of_flags, "fetestexcept")
        self.clear = ir.Function(self.module, of_flags, "feclearexcept")
        self.move = ir.Function(self.module, ir.FunctionType(self.word, [self.word] * 3), "memmove")
        self.system = ir.Function(self.module, ir.FunctionType(self.word, [self.word], var_arg=True), "syscall")
        self.processor = ir.Function(self.module, ir.FunctionType(self.int32, []), "sched_getcpu")
        self.byte = ir.IntType(8).as_pointer()
        flags = [self.int32] * 3
        self.prefetch = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [self.byte, *flags]), "llvm.prefetch.p0")
        self.pause = ir.Function(self.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause")
        self.cycles = ir.Function(self.module, ir.FunctionType(self.word, []), "llvm.readcyclecounter")
        for n in ARITIES:
            self.caller(n)
        for n in ARITIES[:2]:
            self.caller(n, checked=True)
        for char, real in (("f", ir.FloatType()), ("d", ir.DoubleType())):
            self.product(f"{char}gemm", real, "eeeiiiraiairai")
            self.product(f"{char}gemv", real, "eeiiraiairai")
            for name, instruction in NUMBERS.items():
                self.number(char, real, name, instruction)
            self.total(char, real)
            self.dot(char, real)
        self.copy()
        self.clear_bytes()
        self.take()
        self.loop()
        self.repeat()
        self.fork()
        self.serve()
        self.once()
        for k in range(MOST_GIVEN + 1):
            self.enter(k)

    def function(self, name: str, count: int, result: Any = None) -> tuple[Any, Any]:
        function = self.ir.Function(self.module, self.ir.FunctionType(result or self.word, [self.word] * count), name)
        return function, self.ir.IRBuilder(function.append_basic_block("entry"))

    def constant(self, value: int) -> Any:
        return self.ir.Constant(self.word, value)

    def load(self, builder: Any, at: Any, offset: int = 0, kind: Any = None) -> Any:
        kind = kind or self.word
        return builder.load(builder.inttoptr(builder.add(at, self.constant(offset)), kind.as_pointer()))

    def store(self, builder: Any, value: Any, at: Any, offset: int = 0) -> None:
        builder.store(value, builder.inttoptr(builder.add(at, self.constant(offset)), self.word.as_pointer()))

    def look(self, builder: Any, at: Any, offset: int) -> Any:
        """A word that other threads write."""
        pointer = builder.inttoptr(builder.add(at, self.constant(8 * offset)), self.word.as_pointer())
        return builder.load_atomic(pointer, "seq_cst", 8)

    def tell(self, builder: Any, value: Any, at: Any, offset: int) -> None:
        """Write a word that other threads read."""
        pointer = builder.inttoptr(builder.add(at, self.constant(8 * offset)), self.word.as_pointer())
        builder.store_atomic(value, pointer, "seq_cst", 8)

    def swap(self, builder: Any, at: Any, offset: int, expected: Any, value: Any) -> Any:
        """Write a word if it is as expected; whether it was."""
        pointer = builder.inttoptr(builder.add(at, self.constant(8 * offset)), self.word.as_pointer())
        found = builder.cmpxchg(pointer, expected, value, "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    def futex(self, builder: Any, at: Any, offset: int, action: int, value: int) -> None:
        """Sleep while a word has a value, or wake whoever sleeps there."""
        address = builder.add(at, self.constant(8 * offset))
        builder.call(self.system, [self.constant(FUTEX), address, *map(self.constant, (action, value, 0))])

    def blocks(self, function: Any, *names: str) -> list[Any]:
        return [function.append_basic_block(name) for name in names]

    def caller(self, n: int, checked: bool = False) -> None:
        """Calls Numba's code with n words. Its status is not 0 if it has raised; checked: 1 if its result is 0 or more."""
        function, b = self.function(f"{'checked' if checked else 'call'}{n}", 1)
        record = function.args[0]
        words = [self.load(b, record, 24 + 8 * i) for i in range(n)]
        kind = self.ir.FunctionType(self.int32, [self.word] * n)
        status = b.call(b.inttoptr(self.load(b, record, 16), kind.as_pointer()), words)
        wrong = b.icmp_signed("!=", status, self.ir.Constant(self.int32, 0))
        if checked:
            wrong = b.or_(wrong, b.icmp_signed(">=", self.load(b, words[0]), self.constant(0)))
        b.ret(b.zext(wrong, self.word))

    def product(self, name: str, real: Any, kinds: str) -> None:
        """Calls BLAS; the status is what floating-point errors it has made.

        kinds   "e" of its enumerations, "i" of its integers, "a" addresses; "r" 1, then 0
        """
        function, b = self.function(name, 1)
        record, kept = function.args[0], self.begin_errors(b)
        types = {"e": self.int32, "i": self.blas_int, "a": self.word, "r": real}
        reals, place, given = iter((1.0, 0.0)), 24, []
        for kind in kinds:
            if kind == "r":
                given.append(self.ir.Constant(real, next(reals)))
                continue
            word = self.load(b, record, place)
            given.append(word if types[kind] is self.word else b.trunc(word, types[kind]))
            place += 8
        signature = self.ir.FunctionType(self.ir.VoidType(), [types[kind] for kind in kinds])
        b.call(b.inttoptr(self.load(b, record, 16), signature.as_pointer()), given)
        raised = b.zext(b.call(self.test, [kept]), self.word)
        b.ret(raised)

    def dot(self, char: str, real: Any) -> None:
        """The sum of products of some numbers at a time by BLAS, those sums being added in 64 bits; the status is what
        floating-point errors it has made. Arguments: addresses of both arrays and of the result; how many numbers; how many
        at a time, at most."""
        function, b = self.function(f"{char}dot", 1)
        record, kept = function.args[0], self.begin_errors(b)
        left, right, to, size, most = (self.load(b, record, 24 + 8 * i) for i in range(5))
        double, width = self.ir.DoubleType(), self.constant(4 if char == "f" else 8)
        kind = self.ir.FunctionType(real, [self.blas_int, self.word, self.blas_int, self.word, self.blas_int])
        blas, one = b.inttoptr(self.load(b, record, 16), kind.as_pointer()), self.ir.Constant(self.blas_int, 1)
        entry = b.block
        look, more, done = self.blocks(function, "look", "more", "done")
        b.branch(look)
        b.position_at_end(look)
        i, total = b.phi(self.word), b.phi(double)
        i.add_incoming(self.constant(0), entry)
        total.add_incoming(self.ir.Constant(double, 0.0), entry)
        b.cbranch(b.icmp_signed("<", i, size), more, done)
        b.position_at_end(more)
        left_over = b.sub(size, i)
        count = b.select(b.icmp_signed("<", left_over, most), left_over, most)
        at = b.mul(i, width)
        given = count if self.blas_int is self.word else b.trunc(count, self.blas_int)
        part = b.call(blas, [given, b.add(left, at), one, b.add(right, at), one])
        total.add_incoming(b.fadd(total, part if char == "d" else b.fpext(part, double)), more)
        i.add_incoming(b.add(i, count), more)
        b.branch(look)
        b.position_at_end(done)
        b.store(total if char == "d" else b.fptrunc(total, real), b.inttoptr(to, real.as_pointer()))
        b.ret(b.zext(b.call(self.test, [kept]), self.word))

    def copy(self) -> None:
        """Copies rows. Arguments: address of the first, and of the first to be copied; how many; bytes of each; bytes from one
        to the next, of both."""
        function, b = self.function("copy", 1)
        to, of, rows, size, step_to, step_of = (self.load(b, function.args[0], 24 + 8 * i) for i in range(6))
        entry = b.block
        look, put, done = (function.append_basic_block(x) for x in ("look", "put", "done"))
        b.branch(look)
        b.position_at_end(look)
        i = b.phi(self.word)
        i.add_incoming(self.constant(0), entry)
        b.cbranch(b.icmp_signed("==", i, rows), done, put)
        b.position_at_end(put)
        b.call(self.move, [b.add(to, b.mul(i, step_to)), b.add(of, b.mul(i, step_of)), size])
        i.add_incoming(b.add(i, self.constant(1)), put)
        b.branch(look)
        b.position_at_end(done)
        b.ret(self.constant(0))

    def clear_bytes(self) -> None:
        """Makes bytes 0. Arguments: address, how many."""
        function, b = self.function("clear", 1)
        fill = self.ir.Function(self.module, self.ir.FunctionType(self.word, [self.word, self.int32, self.word]), "memset")
        at, size = (self.load(b, function.args[0], 24 + 8 * i) for i in range(2))
        b.call(fill, [at, self.ir.Constant(self.int32, 0), size])
        b.ret(self.constant(0))

    def number(self, char: str, real: Any, name: str, instruction: str) -> None:
        """A function of one or two numbers. Arguments: their addresses, then that of the result."""
        function, b = self.function(char + name, 1)
        kept = self.begin_errors(b)
        count = 1 if name == "negative" else 2
        *given, to = (self.load(b, function.args[0], 24 + 8 * i) for i in range(count + 1))
        result = getattr(b, instruction)(*[self.load(b, at, kind=real) for at in given])
        b.store(result, b.inttoptr(to, real.as_pointer()))
        b.ret(b.zext(b.call(self.test, [kept]), self.word))

    def begin_errors(self, b: Any) -> Any:
        """Forget the floating-point errors from before; returns which are looked at."""
        kept = self.ir.Constant(self.int32, ERRORS)
        before = b.call(self.test, [kept])
        with b.if_then(b.icmp_signed("!=", before, self.ir.Constant(self.int32, 0))):
            b.call(self.clear, [kept])
        return kept

    def loop(self) -> None:
        """run(call): from this call on; returns the call after which it has stopped, 0 at the end."""
        function, b = self.function("run", 1)
        (first,) = function.args
        entry = b.block
        look, call, stop, after = (function.append_basic_block(name) for name in ("look", "call", "stop", "after"))
        end = function.append_basic_block("end")
        b.branch(look)
        b.position_at_end(look)
        record = b.phi(self.word)
        record.add_incoming(first, entry)
        caller = self.load(b, record)
        b.cbranch(b.icmp_signed("==", caller, self.constant(0)), end, call)
        b.position_at_end(call)
        kind = self.ir.FunctionType(self.word, [self.word])
        status = b.call(b.inttoptr(caller, kind.as_pointer()), [record])
        b.cbranch(b.icmp_signed("!=", status, self.constant(0)), stop, after)
        b.position_at_end(after)
        following = self.load(b, record, 8)
        record.add_incoming(following, after)
        b.branch(look)
        b.position_at_end(stop)
        b.ret(record)
        b.position_at_end(end)
        b.ret(self.constant(0))

    def repeat(self) -> None:
        """repeat(header): do all calls as often as is left, and make the shifts after each time. As `run`, it returns the call
        after which it has stopped; what is left counts the time in which it did."""
        function, b = self.function("repeat", 1)
        (header,) = function.args
        names = ("look", "run", "count", "shift", "more", "ended", "done", "stop")
        look, run, count, shift, more, ended, done, stop = self.blocks(function, *names)
        shifts, first = self.load(b, header, 8 * SHIFTS), self.load(b, header, 8 * SHIFTS_AT)
        b.branch(look)
        b.position_at_end(look)
        b.cbranch(b.icmp_signed(">", self.load(b, header, 8 * LEFT), self.constant(0)), run, done)
        b.position_at_end(run)
        stopped = b.call(self.module.get_global("run"), [self.load(b, header, 8 * FIRST)])
        b.cbranch(b.icmp_signed("!=", stopped, self.constant(0)), stop, count)
        b.position_at_end(count)
        b.branch(shift)
        b.position_at_end(shift)
        i = b.phi(self.word)
        i.add_incoming(self.constant(0), count)
        b.cbranch(b.icmp_signed("<", i, shifts), more, ended)
        b.position_at_end(more)
        place = b.add(first, b.mul(i, self.constant(8 * SHIFT)))
        word = self.load(b, place)
        self.store(b, b.add(self.load(b, word), self.load(b, place, 8)), word)
        i.add_incoming(b.add(i, self.constant(1)), more)
        b.branch(shift)
        b.position_at_end(ended)
        self.store(b, b.sub(self.load(b, header, 8 * LEFT), self.constant(1)), header, 8 * LEFT)
        b.branch(look)
        b.position_at_end(stop)
        b.ret(stopped)
        b.position_at_end(done)
        b.ret(self.constant(0))

    def take(self) -> None:
        """Copies rows by their indices. Arguments: address of the first row to be written, and of row 0; address of the
        indices; how many; bytes of a row; bytes from one to the next of those that are read. Rows of 4 and 8 bytes are copied
        at once."""
        function, b = self.function("take", 1)
        to, of, indices, count, size, step = (self.load(b, function.args[0], 24 + 8 * i) for i in range(6))
        entry = b.block
        names = ("look", "one", "four", "not_four", "eight", "other", "fetch", "copy", "after", "done")
        look, one, four, not_four, eight, other, fetch, copy, after, done = self.blocks(function, *names)
        b.branch(look)
        b.position_at_end(look)
        i = b.phi(self.word)
        i.add_incoming(self.constant(0), entry)
        b.cbranch(b.icmp_signed("<", i, count), one, done)
        b.position_at_end(one)
        index = self.load(b, b.add(indices, b.mul(i, self.constant(8))))
        target, source = b.add(to, b.mul(i, size)), b.add(of, b.mul(index, step))
        b.cbranch(b.icmp_signed("==", size, self.constant(4)), four, not_four)
        b.position_at_end(four)
        b.store(self.load(b, source, kind=self.int32), b.inttoptr(target, self.int32.as_pointer()))
        b.branch(after)
        b.position_at_end(not_four)
        b.cbranch(b.icmp_signed("==", size, self.constant(8)), eight, other)
        b.position_at_end(eight)
        self.store(b, self.load(b, source), target)
        b.branch(after)
        b.position_at_end(other)
        following = b.add(i, self.constant(1))
        following = b.select(b.icmp_signed("<", following, count), following, i)
        next_row = b.add(of, b.mul(self.load(b, b.add(indices, b.mul(following, self.constant(8)))), step))
        b.branch(fetch)
        b.position_at_end(fetch)
        ahead = b.phi(self.word)
        ahead.add_incoming(self.constant(0), other)
        b.call(
            self.prefetch,
            [b.inttoptr(b.add(next_row, ahead), self.byte), *[self.ir.Constant(self.int32, n) for n in (0, 3, 1)]],
        )
        further = b.add(ahead, self.constant(64))
        ahead.add_incoming(further, fetch)
        b.cbranch(b.icmp_signed("<", further, size), fetch, copy)
        b.position_at_end(copy)
        b.call(self.move, [target, source, size])
        b.branch(after)
        b.position_at_end(after)
        i.add_incoming(b.add(i, self.constant(1)), after)
        b.branch(look)
        b.position_at_end(done)
        b.ret(self.constant(0))

    def fork(self) -> None:
        """Runs parts of some work in threads, one of them itself; the status is 0 if none of them has stopped.

        Arguments: address of the team, how many parts, then for each the address of its first call. What no thread has begun
        by the time that the own part is done is done here. While the team is at work for another thread, all of it is.

        The threads are told to keep away from the processor that this one runs on: Linux in a virtual machine takes processors
        that sleep for busy ones, and would have two threads take turns on one of them for milliseconds.
        """
        function, b = self.function("fork", 1)
        record, zero, one = function.args[0], self.constant(0), self.constant(1)
        run = self.module.get_global("run")
        team, count = self.load(b, record, 24), self.load(b, record, 32)
        stopped = b.alloca(self.word)
        left = b.alloca(self.word)

        def part(i: Any) -> Any:
            return self.load(b, b.add(record, b.mul(i, self.constant(8))), 40)

        def slot(i: Any) -> Any:  # of part i
            return b.add(team, b.mul(b.add(b.mul(b.sub(i, one), self.constant(SLOT)), self.constant(TEAM)), self.constant(8)))

        def run_here(i: Any) -> None:
            b.store(b.or_(b.load(stopped), b.call(run, [part(i)])), stopped)

        b.store(zero, stopped)
        names = ("alone", "one_alone", "begin", "together", "give", "move", "post", "wake", "given", "own", "join")
        alone, one_alone, begin, together, give, move, post, wake, given, own, join = self.blocks(function, *names)
        take, taken, wait, spin = self.blocks(function, "take", "taken", "wait", "spin")
        sleep, ended, free, done = self.blocks(function, "sleep", "ended", "free", "done")
        entry = b.block
        b.cbranch(self.swap(b, team, BUSY, zero, one), begin, alone)

        b.position_at_end(alone)
        i = b.phi(self.word)
        i.add_incoming(zero, entry)
        b.cbranch(b.icmp_signed("<", i, count), one_alone, done)
        b.position_at_end(one_alone)
        run_here(i)
        i.add_incoming(b.add(i, one), one_alone)
        b.branch(alone)

        b.position_at_end(begin)
        here = b.zext(b.call(self.processor, []), self.word)
        others, set_bytes = self.load(b, team, 8 * OTHERS), self.load(b, team, 8 * SET_BYTES)
        avoided = b.select(b.icmp_unsigned("<", here, self.load(b, team, 8 * SETS)), b.add(here, one), zero)
        b.branch(together)

        b.position_at_end(together)
        i = b.phi(self.word)
        i.add_incoming(one, begin)
        b.cbranch(b.icmp_signed("<", i, count), give, own)
        b.position_at_end(give)
        mine = slot(i)
        thread = self.look(b, mine, THREAD)
        is_known = b.and_(b.icmp_signed("!=", thread, zero), b.icmp_signed("!=", avoided, zero))
        b.cbranch(b.and_(is_known, b.icmp_signed("!=", self.load(b, mine, 8 * AVOIDED), avoided)), move, post)
        b.position_at_end(move)
        self.store(b, avoided, mine, 8 * AVOIDED)
        own_set = b.add(others, b.mul(here, set_bytes))
        b.call(self.system, [self.constant(SET_AFFINITY), thread, set_bytes, own_set])
        b.branch(post)
        b.position_at_end(post)
        self.tell(b, zero, mine, DONE)
        self.tell(b, zero, mine, AWAITED)
        self.tell(b, part(i), mine, JOB)
        b.cbranch(b.icmp_signed("!=", self.look(b, mine, SLEEPS), zero), wake, given)
        b.position_at_end(wake)
        self.tell(b, zero, mine, SLEEPS)
        self.futex(b, mine, SLEEPS, WAKE, 1)
        b.branch(given)
        b.position_at_end(given)
        i.add_incoming(b.add(i, one), given)
        b.branch(together)

        b.position_at_end(own)
        run_here(zero)
        b.branch(join)

        b.position_at_end(join)
        i = b.phi(self.word)
        i.add_incoming(one, own)
        b.cbranch(b.icmp_signed("<", i, count), take, free)
        b.position_at_end(take)
        mine = slot(i)
        b.store(self.constant(LOOKS), left)
        b.cbranch(self.swap(b, mine, JOB, part(i), zero), taken, wait)
        b.position_at_end(taken)
        run_here(i)
        b.branch(ended)
        b.position_at_end(wait)
        status = self.look(b, mine, DONE)
        b.store(b.or_(b.load(stopped), b.and_(status, self.constant(2))), stopped)
        b.cbranch(b.icmp_signed("!=", status, zero), ended, spin)
        b.position_at_end(spin)
        b.call(self.pause, [])
        looks = b.sub(b.load(left), one)
        b.store(looks, left)
        b.cbranch(b.icmp_signed("<", looks, zero), sleep, wait)
        b.position_at_end(sleep)
        self.tell(b, one, mine, AWAITED)
        self.futex(b, mine, DONE, WAIT, 0)
        b.branch(wait)
        b.position_at_end(ended)
        i.add_incoming(b.add(i, one), ended)
        b.branch(join)

        b.position_at_end(free)
        self.tell(b, zero, team, BUSY)
        b.branch(done)
        b.position_at_end(done)
        b.ret(b.load(stopped))

    def serve(self) -> None:
        """serve(slot): what a thread of a team does: run parts as they come, and sleep where none comes. It never returns."""
        function, b = self.function("serve", 1)
        (slot,) = function.args
        zero, run = self.constant(0), self.module.get_global("run")
        self.tell(b, b.call(self.system, [self.constant(GET_THREAD)]), slot, THREAD)
        names = ("idle", "spin", "claim", "work", "wake", "rest", "tired", "sleep", "sleeping")
        idle, spin, claim, work, wake, rest, tired, sleep, sleeping = self.blocks(function, *names)
        b.branch(idle)
        b.position_at_end(idle)
        since = b.call(self.cycles, [])
        b.branch(spin)
        b.position_at_end(spin)
        job = self.look(b, slot, JOB)
        b.cbranch(b.icmp_signed("!=", job, zero), claim, rest)
        b.position_at_end(claim)
        b.cbranch(self.swap(b, slot, JOB, job, zero), work, idle)
        b.position_at_end(work)
        has_stopped = b.icmp_signed("!=", b.call(run, [job]), zero)
        self.tell(b, b.select(has_stopped, self.constant(3), self.constant(1)), slot, DONE)
        b.cbranch(b.icmp_signed("!=", self.look(b, slot, AWAITED), zero), wake, idle)
        b.position_at_end(wake)
        self.futex(b, slot, DONE, WAKE, 1)
        b.branch(idle)
        b.position_at_end(rest)
        b.call(self.pause, [])
        waited = b.sub(b.call(self.cycles, []), since)
        b.cbranch(b.icmp_unsigned(">", waited, self.constant(SPIN)), tired, spin)
        b.position_at_end(tired)
        self.tell(b, self.constant(1), slot, SLEEPS)
        b.cbranch(b.icmp_signed("!=", self.look(b, slot, JOB), zero), sleeping, sleep)
        b.position_at_end(sleep)
        self.futex(b, slot, SLEEPS, WAIT, 1)
        b.branch(sleeping)
        b.position_at_end(sleeping)
        self.tell(b, zero, slot, SLEEPS)
        b.branch(idle)

    def total(self, char: str, real: Any) -> None:
        """Adds up arrays of as many numbers. Arguments: address of the result, of the arrays, one after the other; how many
        arrays (two or more), of how many numbers."""
        function, b = self.function(f"{char}total", 1)
        to, of, count, size = (self.load(b, function.args[0], 24 + 8 * i) for i in range(4))
        zero, one, width = self.constant(0), self.constant(1), self.constant(4 if char == "f" else 8)
        entry = b.block
        number, first, more, add, put, done = self.blocks(function, "number", "first", "more", "add", "put", "done")
        b.branch(number)
        b.position_at_end(number)
        i = b.phi(self.word)
        i.add_incoming(zero, entry)
        b.cbranch(b.icmp_signed("<", i, size), first, done)
        b.position_at_end(first)
        start = self.load(b, b.add(of, b.mul(i, width)), kind=real)
        b.branch(more)
        b.position_at_end(more)
        k, value = b.phi(self.word), b.phi(real)
        k.add_incoming(one, first)
        value.add_incoming(start, first)
        b.cbranch(b.icmp_signed("<", k, count), add, put)
        b.position_at_end(add)
        place = b.add(b.mul(k, size), i)
        value.add_incoming(b.fadd(value, self.load(b, b.add(of, b.mul(place, width)), kind=real)), add)
        k.add_incoming(b.add(k, one), add)
        b.branch(more)
        b.position_at_end(put)
        b.store(value, b.inttoptr(b.add(to, b.mul(i, width)), real.as_pointer()))
        i.add_incoming(b.add(i, one), put)
        b.branch(number)
        b.position_at_end(done)
        b.ret(zero)

    def once(self) -> None:
        """once(table, arguments): a call of a kernel with these arguments, in memory of its own, so that several threads can
        make it at once. Returns its result, RAISED if it has raised."""
        function, b = self.function("once", 2)
        table, given = function.args
        room = b.ptrtoint(b.alloca(self.ir.ArrayType(self.word, ARITIES[-1] + 5)), self.word)
        record, zero = b.add(room, self.constant(16)), self.constant(0)
        size, count = self.load(b, table), self.load(b, table, 8)
        places, end = b.add(table, self.constant(16)), b.mul(count, self.constant(16))
        b.call(self.move, [record, b.add(places, end), b.mul(size, self.constant(8))])
        entry = b.block
        look, put, done = (function.append_basic_block(x) for x in ("look", "put", "done"))
        b.branch(look)
        b.position_at_end(look)
        i = b.phi(self.word)
        i.add_incoming(zero, entry)
        b.cbranch(b.icmp_signed("==", i, count), done, put)
        b.position_at_end(put)
        place = b.add(places, b.mul(i, self.constant(16)))
        one = self.load(b, b.add(given, b.mul(i, self.constant(8))))
        is_array = b.icmp_signed("!=", self.load(b, place, 8), zero)
        at = b.select(is_array, b.add(one, self.constant(DATA)), b.add(given, b.mul(i, self.constant(8))))
        self.store(b, self.load(b, at), b.add(record, b.mul(self.load(b, place), self.constant(8))))
        i.add_incoming(b.add(i, self.constant(1)), put)
        b.branch(look)
        b.position_at_end(done)
        self.store(b, zero, room)
        self.store(b, room, record, 24)
        self.store(b, b.add(room, self.constant(8)), record, 32)
        kind = self.ir.FunctionType(self.word, [self.word])
        status = b.call(b.inttoptr(self.load(b, record), kind.as_pointer()), [record])
        is_well = b.icmp_signed("==", status, zero)
        b.ret(b.select(is_well, self.load(b, room), self.constant(RAISED)))

    def enter(self, k: int) -> None:
        """enter(header, array objects ...): put the addresses of all data in their words, then run."""
        function, b = self.function(f"enter{k}", 1 + k)
        header, objects = function.args[0], function.args[1:]
        table = b.alloca(self.ir.ArrayType(self.word, max(k, 1)))
        zero = self.constant(0)
        for i, one in enumerate(objects):
            b.store(one, b.gep(table, [zero, self.constant(i)]))
        count, first = self.load(b, header, 8 * PATCHES), self.load(b, header, 8 * PATCHES_AT)
        entry = b.block
        look, known, given, put, done = (function.append_basic_block(x) for x in ("look", "known", "given", "put", "done"))
        b.branch(look)
        b.position_at_end(look)
        i = b.phi(self.word)
        i.add_incoming(zero, entry)
        patch = b.add(first, b.mul(i, self.constant(8 * PATCH)))
        b.cbranch(b.icmp_signed("==", i, count), done, known)
        b.position_at_end(known)
        which = self.load(b, patch)
        b.cbranch(b.icmp_signed("<", which, zero), given, put)
        b.position_at_end(given)
        one = b.load(b.gep(table, [zero, b.sub(self.constant(-1), which)]))
        b.branch(put)
        b.position_at_end(put)
        thing = b.phi(self.word)
        thing.add_incoming(which, known)
        thing.add_incoming(one, given)
        self.store(b, b.add(self.load(b, thing, DATA), self.load(b, patch, 16)), self.load(b, patch, 8))
        i.add_incoming(b.add(i, self.constant(1)), put)
        b.branch(look)
        b.position_at_end(done)
        self.store(b, self.load(b, header, 8 * COUNT), header, 8 * LEFT)
        b.ret(b.call(self.module.get_global("repeat"), [header]))
