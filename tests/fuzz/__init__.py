"""A differential fuzzer of compiled steps: random programs, run as they are and compiled, must do the same.

What a compiled program may do: give what the step itself gives, to rounding, in everything that can be seen of it after each
call (results, parameters, buffers, `.grad`, optimisers, arguments, whatever else lives outside of the step); or raise
CompileError. Anything else is a difference: other numbers, another exception, none where the step raises one, a result that
shares memory or changes later, parameters half brought up to date when a call is refused, a crash, a call that does not end.

    python -m tests.fuzz --seconds 600              hunt on all cores, then a summary; exit status 1 if there are differences
    python -m tests.fuzz --only 1234 [--no-numba]   one program: its text, what came of it, and, if it differs, a short script

program.py     a program as data, and the text that is made of it
draw.py        random choices, sizes on both sides of the thresholds, settings of a program
formulas.py    programs that are formulas of all operations
training.py    programs that are parts of training: models, losses, optimisers
habits.py      what users do besides: raw writes, settings changed between calls, things replaced, results kept
world.py       a program run, and what is seen of it
compare.py     two runs side by side, and what rounding may do to them
shrink.py      a program that differs made small
hunt.py        many programs in processes of their own, and the summary
"""
