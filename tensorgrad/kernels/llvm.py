"""The machine code that runs programs (native.py), as LLVM IR."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# The header of a program: number and address of the patches; address of the first instruction; number of repetitions of a run,
# and how many of them remain; number and address of the shifts
PATCH_COUNT, PATCHES_AT, FIRST, COUNT, REMAINING, SHIFT_COUNT, SHIFTS_AT, HEADER = range(8)
PATCH, SHIFT = 3, 2  # words of each
MAX_PARAMETERS = 8  # arrays that can be passed to a run
DATA = object.__basicsize__  # offset of the address of the data in an array object: directly after the header of every object
ARITIES = (24, 48, 96, 192, 384)  # surplus arguments of a call do no harm, so a few arities are enough
FP_ERRORS = 13  # C's FE_INVALID, FE_DIVBYZERO and FE_OVERFLOW, on x86
# Functions of 0-d arrays, and LLVM's instructions for them
SCALAR_OPS = {"add": "fadd", "subtract": "fsub", "multiply": "fmul", "divide": "fdiv", "negative": "fneg"}
RAISED = -(2**62)  # the result of a kernel that has raised an exception
# The memory of a team of threads. Its header: whether it is busy; the address of sets of processors, for each processor all
# others; the bytes of a set; the number of sets (0: affinities are not set)
TEAM_WORDS, BUSY, CPU_SETS, CPU_SET_BYTES, CPU_SET_COUNT = 32, 0, 1, 2, 3
# Then a slot for each thread, with words on separate cache lines: its next part; whether it sleeps; whether it has finished the
# part (1, or 3 if that has stopped); whether another thread sleeps until then; its thread ID; the processor that it avoids,
# counted from 1
SLOT_WORDS, JOB, ASLEEP, DONE, HAS_WAITER, THREAD_ID, AVOIDED_CPU = 40, 0, 8, 16, 24, 32, 33
IDLE_CYCLES = 300_000  # cycles (a tenth of a millisecond) that a thread spins before it sleeps
JOIN_SPINS = 2_048  # spins of a thread that joins another, before it sleeps: the other may need the same core
FUTEX, WAIT, WAKE, SET_AFFINITY, GET_THREAD = 202, 128, 129, 203, 186  # of Linux on x86-64


class Writer:
    """Writes the code as LLVM IR."""

    def __init__(self, ir: Any, is_ilp64: bool) -> None:
        self.ir, self.module = ir, ir.Module("tensorgrad_native")
        self.word, self.int32 = ir.IntType(64), ir.IntType(32)
        self.blas_int = self.word if is_ilp64 else self.int32
        of_flags = ir.FunctionType(self.int32, [self.int32])
        self.test_errors = ir.Function(self.module, of_flags, "fetestexcept")
        self.clear_errors = ir.Function(self.module, of_flags, "feclearexcept")
        self.memmove = ir.Function(self.module, ir.FunctionType(self.word, [self.word] * 3), "memmove")
        self.syscall = ir.Function(self.module, ir.FunctionType(self.word, [self.word], var_arg=True), "syscall")
        self.current_cpu = ir.Function(self.module, ir.FunctionType(self.int32, []), "sched_getcpu")
        self.byte_pointer = ir.IntType(8).as_pointer()
        flags = [self.int32] * 3
        self.prefetch = ir.Function(
            self.module, ir.FunctionType(ir.VoidType(), [self.byte_pointer, *flags]), "llvm.prefetch.p0"
        )
        self.pause = ir.Function(self.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause")
        self.cycles = ir.Function(self.module, ir.FunctionType(self.word, []), "llvm.readcyclecounter")
        for n in ARITIES:
            self.handler(n)
        for n in ARITIES[:2]:
            self.handler(n, checked=True)
        for char, real in (("f", ir.FloatType()), ("d", ir.DoubleType())):
            self.product(f"{char}gemm", real, "eeeiiiraiairai")
            self.product(f"{char}gemv", real, "eeiiraiairai")
            for name, instruction in SCALAR_OPS.items():
                self.scalar_op(char, real, name, instruction)
            self.total(char, real)
            self.dot(char, real)
        self.copy()
        self.clear_bytes()
        self.take()
        self.run()
        self.repeat()
        self.fork()
        self.serve()
        self.once()
        for k in range(MAX_PARAMETERS + 1):
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

    def load_atomic(self, builder: Any, at: Any, offset: int) -> Any:
        """Load a word that other threads write."""
        pointer = builder.inttoptr(builder.add(at, self.constant(8 * offset)), self.word.as_pointer())
        return builder.load_atomic(pointer, "seq_cst", 8)

    def store_atomic(self, builder: Any, value: Any, at: Any, offset: int) -> None:
        """Store a word that other threads read."""
        pointer = builder.inttoptr(builder.add(at, self.constant(8 * offset)), self.word.as_pointer())
        builder.store_atomic(value, pointer, "seq_cst", 8)

    def compare_exchange(self, builder: Any, at: Any, offset: int, expected: Any, value: Any) -> Any:
        """Store a word if its value is `expected`; returns whether it was."""
        pointer = builder.inttoptr(builder.add(at, self.constant(8 * offset)), self.word.as_pointer())
        result = builder.cmpxchg(pointer, expected, value, "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    def futex(self, builder: Any, at: Any, offset: int, action: int, value: int) -> None:
        """Sleep while a word has a value, or wake the threads that sleep on it."""
        address = builder.add(at, self.constant(8 * offset))
        builder.call(self.syscall, [self.constant(FUTEX), address, *map(self.constant, (action, value, 0))])

    def prefetch_line(self, builder: Any, at: Any) -> None:
        """Load a cache line, to be read soon, from an address that need not be valid."""
        kind = [self.ir.Constant(self.int32, n) for n in (0, 3, 1)]  # to be read, into the first level, data
        builder.call(self.prefetch, [builder.inttoptr(at, self.byte_pointer), *kind])

    def blocks(self, function: Any, *names: str) -> list[Any]:
        return [function.append_basic_block(name) for name in names]

    @contextmanager
    def each(self, b: Any, count: Any, start: int = 0) -> Iterator[Any]:
        """A loop around the code that the block emits: i from `start` to count - 1."""
        before = b.block
        head, body, done = self.blocks(b.function, "head", "body", "done")
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(self.word)
        i.add_incoming(self.constant(start), before)
        b.cbranch(b.icmp_signed("<", i, count), body, done)
        b.position_at_end(body)
        yield i
        i.add_incoming(b.add(i, self.constant(1)), b.block)
        b.branch(head)
        b.position_at_end(done)

    def handler(self, n: int, checked: bool = False) -> None:
        """Calls Numba's code with n words. The status is not 0 if it raised; checked: also if its result is not negative."""
        function, b = self.function(f"{'checked' if checked else 'call'}{n}", 1)
        instruction = function.args[0]
        words = [self.load(b, instruction, 24 + 8 * i) for i in range(n)]
        kind = self.ir.FunctionType(self.int32, [self.word] * n)
        status = b.call(b.inttoptr(self.load(b, instruction, 16), kind.as_pointer()), words)
        has_failed = b.icmp_signed("!=", status, self.ir.Constant(self.int32, 0))
        if checked:
            has_failed = b.or_(has_failed, b.icmp_signed(">=", self.load(b, words[0]), self.constant(0)))
        b.ret(b.zext(has_failed, self.word))

    def product(self, name: str, real: Any, kinds: str) -> None:
        """Calls BLAS; the status is its floating-point errors.

        kinds   of its arguments: "e" enumerations, "i" integers, "a" addresses, "r" reals: 1 (alpha), then 0 (beta)
        """
        function, b = self.function(name, 1)
        instruction, mask = function.args[0], self.clear_fp_errors(b)
        types = {"e": self.int32, "i": self.blas_int, "a": self.word, "r": real}
        reals, offset, arguments = iter((1.0, 0.0)), 24, []
        for kind in kinds:
            if kind == "r":
                arguments.append(self.ir.Constant(real, next(reals)))
                continue
            word = self.load(b, instruction, offset)
            arguments.append(word if types[kind] is self.word else b.trunc(word, types[kind]))
            offset += 8
        signature = self.ir.FunctionType(self.ir.VoidType(), [types[kind] for kind in kinds])
        b.call(b.inttoptr(self.load(b, instruction, 16), signature.as_pointer()), arguments)
        raised = b.zext(b.call(self.test_errors, [mask]), self.word)
        b.ret(raised)

    def dot(self, char: str, real: Any) -> None:
        """A dot product. BLAS computes it for chunks of numbers, whose results are added in float64; the status is the
        floating-point errors. Arguments: addresses of both arrays and of the result; their length; the length of a chunk."""
        function, b = self.function(f"{char}dot", 1)
        instruction, mask = function.args[0], self.clear_fp_errors(b)
        left, right, target, size, chunk = (self.load(b, instruction, 24 + 8 * i) for i in range(5))
        double, width = self.ir.DoubleType(), self.constant(4 if char == "f" else 8)
        kind = self.ir.FunctionType(real, [self.blas_int, self.word, self.blas_int, self.word, self.blas_int])
        blas, one = b.inttoptr(self.load(b, instruction, 16), kind.as_pointer()), self.ir.Constant(self.blas_int, 1)
        entry = b.block
        head, more, done = self.blocks(function, "head", "more", "done")
        b.branch(head)
        b.position_at_end(head)
        i, total = b.phi(self.word), b.phi(double)
        i.add_incoming(self.constant(0), entry)
        total.add_incoming(self.ir.Constant(double, 0.0), entry)
        b.cbranch(b.icmp_signed("<", i, size), more, done)
        b.position_at_end(more)
        remaining = b.sub(size, i)
        count = b.select(b.icmp_signed("<", remaining, chunk), remaining, chunk)
        at = b.mul(i, width)
        length = count if self.blas_int is self.word else b.trunc(count, self.blas_int)
        part = b.call(blas, [length, b.add(left, at), one, b.add(right, at), one])
        total.add_incoming(b.fadd(total, part if char == "d" else b.fpext(part, double)), more)
        i.add_incoming(b.add(i, count), more)
        b.branch(head)
        b.position_at_end(done)
        b.store(total if char == "d" else b.fptrunc(total, real), b.inttoptr(target, real.as_pointer()))
        b.ret(b.zext(b.call(self.test_errors, [mask]), self.word))

    def copy(self) -> None:
        """Copies rows. Arguments: addresses of the first row of the target and of the source; number of rows; bytes of a row;
        bytes from one row to the next in the target and in the source."""
        function, b = self.function("copy", 1)
        target, source, rows, size, target_step, source_step = (self.load(b, function.args[0], 24 + 8 * i) for i in range(6))
        with self.each(b, rows) as i:
            b.call(self.memmove, [b.add(target, b.mul(i, target_step)), b.add(source, b.mul(i, source_step)), size])
        b.ret(self.constant(0))

    def clear_bytes(self) -> None:
        """Sets bytes to 0. Arguments: address, number of bytes."""
        function, b = self.function("clear", 1)
        fill = self.ir.Function(self.module, self.ir.FunctionType(self.word, [self.word, self.int32, self.word]), "memset")
        at, size = (self.load(b, function.args[0], 24 + 8 * i) for i in range(2))
        b.call(fill, [at, self.ir.Constant(self.int32, 0), size])
        b.ret(self.constant(0))

    def scalar_op(self, char: str, real: Any, name: str, instruction: str) -> None:
        """A function of one or two numbers. Arguments: their addresses, then that of the result. The status is the
        floating-point errors."""
        function, b = self.function(char + name, 1)
        mask = self.clear_fp_errors(b)
        count = 1 if name == "negative" else 2
        *arguments, target = (self.load(b, function.args[0], 24 + 8 * i) for i in range(count + 1))
        result = getattr(b, instruction)(*[self.load(b, at, kind=real) for at in arguments])
        b.store(result, b.inttoptr(target, real.as_pointer()))
        b.ret(b.zext(b.call(self.test_errors, [mask]), self.word))

    def clear_fp_errors(self, b: Any) -> Any:
        """Clear earlier floating-point errors; returns the mask of those that are tested."""
        mask = self.ir.Constant(self.int32, FP_ERRORS)
        before = b.call(self.test_errors, [mask])
        with b.if_then(b.icmp_signed("!=", before, self.ir.Constant(self.int32, 0))):
            b.call(self.clear_errors, [mask])
        return mask

    def run(self) -> None:
        """run(instruction): execute from this instruction on; returns the instruction that stopped, or 0 at the end."""
        function, b = self.function("run", 1)
        (first,) = function.args
        entry = b.block
        head, call, stop, after = (function.append_basic_block(name) for name in ("head", "call", "stop", "after"))
        end = function.append_basic_block("end")
        b.branch(head)
        b.position_at_end(head)
        instruction = b.phi(self.word)
        instruction.add_incoming(first, entry)
        handler = self.load(b, instruction)
        b.cbranch(b.icmp_signed("==", handler, self.constant(0)), end, call)
        b.position_at_end(call)
        kind = self.ir.FunctionType(self.word, [self.word])
        status = b.call(b.inttoptr(handler, kind.as_pointer()), [instruction])
        b.cbranch(b.icmp_signed("!=", status, self.constant(0)), stop, after)
        b.position_at_end(after)
        next_instruction = self.load(b, instruction, 8)
        instruction.add_incoming(next_instruction, after)
        b.branch(head)
        b.position_at_end(stop)
        b.ret(instruction)
        b.position_at_end(end)
        b.ret(self.constant(0))

    def repeat(self) -> None:
        """repeat(header): run all remaining repetitions, and apply the shifts after each. Like `run`, it returns the
        instruction that stopped; the repetition that stopped counts as remaining."""
        function, b = self.function("repeat", 1)
        (header,) = function.args
        head, run, more, done, stop = self.blocks(function, "head", "run", "more", "done", "stop")
        shifts, first = self.load(b, header, 8 * SHIFT_COUNT), self.load(b, header, 8 * SHIFTS_AT)
        b.branch(head)
        b.position_at_end(head)
        remaining = self.load(b, header, 8 * REMAINING)
        b.cbranch(b.icmp_signed(">", remaining, self.constant(0)), run, done)
        b.position_at_end(run)
        stopped = b.call(self.module.get_global("run"), [self.load(b, header, 8 * FIRST)])
        b.cbranch(b.icmp_signed("!=", stopped, self.constant(0)), stop, more)
        b.position_at_end(more)
        with self.each(b, shifts) as i:
            shift = b.add(first, b.mul(i, self.constant(8 * SHIFT)))
            word = self.load(b, shift)
            self.store(b, b.add(self.load(b, word), self.load(b, shift, 8)), word)
        self.store(b, b.sub(remaining, self.constant(1)), header, 8 * REMAINING)
        b.branch(head)
        b.position_at_end(stop)
        b.ret(stopped)
        b.position_at_end(done)
        b.ret(self.constant(0))

    def take(self) -> None:
        """Gathers rows by their indices. Arguments: addresses of the target, of row 0 of the source, and of the indices; number
        of indices; bytes of a row; bytes from one row of the source to the next. Rows of 4 and 8 bytes are copied as a word;
        for others the next row is prefetched."""
        function, b = self.function("take", 1)
        target, source, indices, count, size, step = (self.load(b, function.args[0], 24 + 8 * i) for i in range(6))

        def row(i: Any) -> Any:  # of the source
            return b.add(source, b.mul(self.load(b, b.add(indices, b.mul(i, self.constant(8)))), step))

        with self.each(b, count) as i:
            to, of = b.add(target, b.mul(i, size)), row(i)
            with b.if_else(b.icmp_signed("==", size, self.constant(4))) as (four, not_four):
                with four:
                    b.store(self.load(b, of, kind=self.int32), b.inttoptr(to, self.int32.as_pointer()))
                with not_four, b.if_else(b.icmp_signed("==", size, self.constant(8))) as (eight, other):
                    with eight:
                        self.store(b, self.load(b, of), to)
                    with other:
                        following = b.add(i, self.constant(1))
                        next_row = row(b.select(b.icmp_signed("<", following, count), following, i))
                        with self.each(b, b.lshr(b.add(size, self.constant(63)), self.constant(6))) as line:
                            self.prefetch_line(b, b.add(next_row, b.mul(line, self.constant(64))))
                        b.call(self.memmove, [to, of, size])
        b.ret(self.constant(0))

    def fork(self) -> None:
        """Runs parts of some work in threads, part 0 in the calling thread; the status is 0 if none of them has stopped.

        Arguments: address of the team, number of parts, address of the first instruction of each part. Parts that no worker has
        begun by the time that the caller has finished its own are run by the caller, too; if the team is busy for another
        thread, all of them are.

        The affinity of the workers excludes the caller's processor: in a virtual machine, Linux takes sleeping processors for
        busy ones, and would run two threads in turn on one processor for milliseconds.
        """
        function, b = self.function("fork", 1)
        instruction, zero, one = function.args[0], self.constant(0), self.constant(1)
        run = self.module.get_global("run")
        team, count = self.load(b, instruction, 24), self.load(b, instruction, 32)
        stopped = b.alloca(self.word)

        def part(i: Any) -> Any:
            return self.load(b, b.add(instruction, b.mul(i, self.constant(8))), 40)

        def slot(i: Any) -> Any:  # of part i
            return b.add(
                team, b.mul(b.add(b.mul(b.sub(i, one), self.constant(SLOT_WORDS)), self.constant(TEAM_WORDS)), self.constant(8))
            )

        def run_here(i: Any) -> None:
            b.store(b.or_(b.load(stopped), b.call(run, [part(i)])), stopped)

        b.store(zero, stopped)
        together, alone, done = self.blocks(function, "together", "alone", "done")
        b.cbranch(self.compare_exchange(b, team, BUSY, zero, one), together, alone)

        b.position_at_end(alone)
        with self.each(b, count) as i:
            run_here(i)
        b.branch(done)

        b.position_at_end(together)
        cpu = b.zext(b.call(self.current_cpu, []), self.word)
        others, set_bytes = self.load(b, team, 8 * CPU_SETS), self.load(b, team, 8 * CPU_SET_BYTES)
        avoided_cpu = b.select(b.icmp_unsigned("<", cpu, self.load(b, team, 8 * CPU_SET_COUNT)), b.add(cpu, one), zero)
        with self.each(b, count, 1) as i:
            worker = slot(i)
            thread = self.load_atomic(b, worker, THREAD_ID)
            is_known = b.and_(b.icmp_signed("!=", thread, zero), b.icmp_signed("!=", avoided_cpu, zero))
            avoids_another = b.icmp_signed("!=", self.load(b, worker, 8 * AVOIDED_CPU), avoided_cpu)
            with b.if_then(b.and_(is_known, avoids_another)):
                self.store(b, avoided_cpu, worker, 8 * AVOIDED_CPU)
                own_set = b.add(others, b.mul(cpu, set_bytes))
                b.call(self.syscall, [self.constant(SET_AFFINITY), thread, set_bytes, own_set])
            self.store_atomic(b, zero, worker, DONE)
            self.store_atomic(b, zero, worker, HAS_WAITER)
            self.store_atomic(b, part(i), worker, JOB)
            with b.if_then(b.icmp_signed("!=", self.load_atomic(b, worker, ASLEEP), zero)):
                self.store_atomic(b, zero, worker, ASLEEP)
                self.futex(b, worker, ASLEEP, WAKE, 1)
        run_here(zero)
        with self.each(b, count, 1) as i:
            worker = slot(i)
            is_unclaimed = self.compare_exchange(b, worker, JOB, part(i), zero)
            with b.if_else(is_unclaimed) as (unclaimed, claimed):
                with unclaimed:
                    run_here(i)
                with claimed:
                    self.join(b, worker, stopped)
        self.store_atomic(b, zero, team, BUSY)
        b.branch(done)

        b.position_at_end(done)
        b.ret(b.load(stopped))

    def join(self, b: Any, worker: Any, stopped: Any) -> None:
        """Wait until a worker has finished its part, spinning at first; set `stopped` if that has stopped."""
        wait, spin, sleep, ended = self.blocks(b.function, "wait", "spin", "sleep", "ended")
        before = b.block
        b.branch(wait)
        b.position_at_end(wait)
        spins = b.phi(self.word)
        spins.add_incoming(self.constant(JOIN_SPINS), before)
        status = self.load_atomic(b, worker, DONE)
        b.cbranch(b.icmp_signed("!=", status, self.constant(0)), ended, spin)
        b.position_at_end(spin)
        b.call(self.pause, [])
        remaining = b.sub(spins, self.constant(1))
        spins.add_incoming(remaining, spin)
        b.cbranch(b.icmp_signed("<", remaining, self.constant(0)), sleep, wait)
        b.position_at_end(sleep)
        self.store_atomic(b, self.constant(1), worker, HAS_WAITER)
        self.futex(b, worker, DONE, WAIT, 0)
        spins.add_incoming(remaining, sleep)
        b.branch(wait)
        b.position_at_end(ended)
        b.store(b.or_(b.load(stopped), b.and_(status, self.constant(2))), stopped)

    def serve(self) -> None:
        """serve(slot): the loop of a worker: run parts as they arrive, spin for a while, then sleep. It never returns."""
        function, b = self.function("serve", 1)
        (slot,) = function.args
        zero, run = self.constant(0), self.module.get_global("run")
        self.store_atomic(b, b.call(self.syscall, [self.constant(GET_THREAD)]), slot, THREAD_ID)
        names = ("idle", "poll", "claim", "work", "wake", "pause", "tired", "sleep", "awake")
        idle, poll, claim, work, wake, pause, tired, sleep, awake = self.blocks(function, *names)
        b.branch(idle)
        b.position_at_end(idle)
        since = b.call(self.cycles, [])
        b.branch(poll)
        b.position_at_end(poll)
        job = self.load_atomic(b, slot, JOB)
        b.cbranch(b.icmp_signed("!=", job, zero), claim, pause)
        b.position_at_end(claim)
        b.cbranch(self.compare_exchange(b, slot, JOB, job, zero), work, idle)
        b.position_at_end(work)
        has_stopped = b.icmp_signed("!=", b.call(run, [job]), zero)
        self.store_atomic(b, b.select(has_stopped, self.constant(3), self.constant(1)), slot, DONE)
        b.cbranch(b.icmp_signed("!=", self.load_atomic(b, slot, HAS_WAITER), zero), wake, idle)
        b.position_at_end(wake)
        self.futex(b, slot, DONE, WAKE, 1)
        b.branch(idle)
        b.position_at_end(pause)
        b.call(self.pause, [])
        waited = b.sub(b.call(self.cycles, []), since)
        b.cbranch(b.icmp_unsigned(">", waited, self.constant(IDLE_CYCLES)), tired, poll)
        b.position_at_end(tired)
        self.store_atomic(b, self.constant(1), slot, ASLEEP)
        b.cbranch(b.icmp_signed("!=", self.load_atomic(b, slot, JOB), zero), awake, sleep)
        b.position_at_end(sleep)
        self.futex(b, slot, ASLEEP, WAIT, 1)
        b.branch(awake)
        b.position_at_end(awake)
        self.store_atomic(b, zero, slot, ASLEEP)
        b.branch(idle)

    def total(self, char: str, real: Any) -> None:
        """The sum of several arrays of one size. Arguments: address of the result, and of the arrays, which are contiguous;
        number of arrays (two or more); their size."""
        function, b = self.function(f"{char}total", 1)
        target, source, count, size = (self.load(b, function.args[0], 24 + 8 * i) for i in range(4))
        width, value = self.constant(4 if char == "f" else 8), b.alloca(real)

        def element(k: Any, i: Any) -> Any:  # of array k
            return self.load(b, b.add(source, b.mul(b.add(b.mul(k, size), i), width)), kind=real)

        with self.each(b, size) as i:
            b.store(element(self.constant(0), i), value)
            with self.each(b, count, 1) as k:
                b.store(b.fadd(b.load(value), element(k, i)), value)
            b.store(b.load(value), b.inttoptr(b.add(target, b.mul(i, width)), real.as_pointer()))
        b.ret(self.constant(0))

    def once(self) -> None:
        """once(table, arguments): call a kernel with these arguments, on the stack, so that several threads can call it at the
        same time. Returns its result, or RAISED if it has raised."""
        function, b = self.function("once", 2)
        table, arguments = function.args
        frame = b.ptrtoint(b.alloca(self.ir.ArrayType(self.word, ARITIES[-1] + 5)), self.word)
        instruction, zero = b.add(frame, self.constant(16)), self.constant(0)
        size, count = self.load(b, table), self.load(b, table, 8)
        places, end = b.add(table, self.constant(16)), b.mul(count, self.constant(16))
        b.call(self.memmove, [instruction, b.add(places, end), b.mul(size, self.constant(8))])
        with self.each(b, count) as i:
            place = b.add(places, b.mul(i, self.constant(16)))
            argument = b.add(arguments, b.mul(i, self.constant(8)))
            is_array = b.icmp_signed("!=", self.load(b, place, 8), zero)
            at = b.select(is_array, b.add(self.load(b, argument), self.constant(DATA)), argument)
            self.store(b, self.load(b, at), b.add(instruction, b.mul(self.load(b, place), self.constant(8))))
        self.store(b, zero, frame)
        self.store(b, frame, instruction, 24)
        self.store(b, b.add(frame, self.constant(8)), instruction, 32)
        kind = self.ir.FunctionType(self.word, [self.word])
        status = b.call(b.inttoptr(self.load(b, instruction), kind.as_pointer()), [instruction])
        has_returned = b.icmp_signed("==", status, zero)
        b.ret(b.select(has_returned, self.load(b, frame), self.constant(RAISED)))

    def enter(self, k: int) -> None:
        """enter(header, array objects ...): write the addresses of all data into the instructions, then run them."""
        function, b = self.function(f"enter{k}", 1 + k)
        header, objects = function.args[0], function.args[1:]
        passed = b.ptrtoint(b.alloca(self.ir.ArrayType(self.word, max(k, 1))), self.word)
        for i, array in enumerate(objects):
            self.store(b, array, passed, 8 * i)
        count, first = self.load(b, header, 8 * PATCH_COUNT), self.load(b, header, 8 * PATCHES_AT)
        with self.each(b, count) as patch:
            at = b.add(first, b.mul(patch, self.constant(8 * PATCH)))
            which = self.load(b, at)
            with b.if_else(b.icmp_signed("<", which, self.constant(0))) as (is_passed, is_fixed):
                with is_passed:
                    place = b.mul(b.sub(self.constant(-1), which), self.constant(8))
                    parameter, parameter_block = self.load(b, b.add(passed, place)), b.block
                with is_fixed:
                    fixed_block = b.block
            array_object = b.phi(self.word)
            array_object.add_incoming(parameter, parameter_block)
            array_object.add_incoming(which, fixed_block)
            self.store(b, b.add(self.load(b, array_object, DATA), self.load(b, at, 16)), self.load(b, at, 8))
        self.store(b, self.load(b, header, 8 * COUNT), header, 8 * REMAINING)
        b.ret(b.call(self.module.get_global("repeat"), [header]))
