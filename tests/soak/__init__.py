"""A soak of the gradient checks: very many right programs, none of which may be called wrong.

    python -m tests.soak --cases 100000 --processes 2          a summary in the end; exit status 1 if there are false alarms
    python -m tests.soak --cases 100000 --out soak.jsonl       streams what it finds; started again, goes on where it stopped
    python -m tests.soak --only expression/7/1234              one case: what it is, and the whole report on it

Every case is right by construction: registered ops and random expressions, whose rules the audit holds against values, models
and losses, at ordinary and at hostile points. A check that calls one wrong, non-finite or nondeterministic, or that raises, is
a false alarm; "precision" is counted by itself: there the arithmetic was not enough to decide.

cases.py   what is drawn
run.py     many cases in processes of their own, and the summary
"""
