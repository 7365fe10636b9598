"""Damaged files of every format that the toolkit reads, and commands killed at every moment.

    mutate.py, media.py   ways to damage bytes, JSON, CSV, numpy arrays and archives; models; moving pictures and maps
    targets.py            for each format a good file, its ways to be damaged, and the commands that read it
    harness.py            runs thousands of inputs through the command line's entry, and says what must not have been
    test_formats.py       300 inputs of each format in `make test`, 20,000 in `make test-all`
    kill.py, test_kill.py commands that die at a random moment: what was whole before is whole still

Whatever an input holds, a command ends with 0 or with one line of error, at most one of hint, and an exit code from 1
to 7; it takes no more than 20 seconds and 2 GB, prints nothing else on stderr, writes what it says it writes and
nothing else, and leaves no file open. Input number N of a target is the same on every machine:

    python -m tests.fuzz labels 123          runs number 123 again, with its traceback
    python -m tests.fuzz labels 0 5000       runs the first 5,000

A failing test names the number, and the folder in which the input was saved. What it shows is mended where it belongs,
and gets a test of its own beside that code: numbers change their meaning when somebody adds another way of damage.
"""
