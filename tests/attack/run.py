#!/usr/bin/env python3
"""Attacks a zincmq host on loopback while honest members work beside it, and judges what becomes of them.

    python3 tests/attack/run.py --binary target/release/zincmq [--case NAME]... [--long] [--seconds N] [--json] [--list]

Needs Python 3.9 and Linux, nothing else. A line for each case says what was wanted and what was measured. Exit code 0
when every case holds, 1 otherwise. The short form takes three minutes on two cores, the long one has the full numbers.
NAME may be the beginning of several names.
"""

import argparse
import importlib
import json
import pathlib
import resource
import signal
import sys
import time
import traceback

from arena import Report, Settings


def gather():
    names = sorted(path.stem for path in pathlib.Path(__file__).with_name("cases").glob("[!_]*.py"))
    return [case for name in names for case in importlib.import_module(f"cases.{name}").CASES]


def judge(case, settings):
    report, began = Report(), time.monotonic()
    try:
        case.run(settings, report)
    except Exception as error:
        traceback.print_exc()
        report.check("the case runs to its end", f"{type(error).__name__}: {error}", False)
    return report, time.monotonic() - began


def line(case, report, took):
    facts = "; ".join(f"{'' if fact.holds else 'NOT '}{fact.wanted}: {' '.join(fact.measured.split())}" for fact in report)
    return f"{'ok  ' if report.holds() else 'FAIL'} {case.name} ({took:.0f} s): {facts}"


def main():
    parser = argparse.ArgumentParser(description="Attacks a zincmq host, and judges what becomes of honest members.")
    parser.add_argument("--binary", metavar="PATH", help="the zincmq command line to attack")
    parser.add_argument("--case", action="append", metavar="NAME", help="only cases whose names begin so")
    parser.add_argument("--long", action="store_true", help="the full numbers, and more cases")
    parser.add_argument("--short", action="store_true", help="the default")
    parser.add_argument("--seconds", type=float, metavar="N", help="how long each attack goes on, in place of its own time")
    parser.add_argument("--json", action="store_true", help="a JSON object for each case")
    parser.add_argument("--list", action="store_true", help="name the cases, and end")
    options = parser.parse_args()
    cases = gather()
    if options.case:
        cases = [case for case in cases if case.name.startswith(tuple(options.case))]
    elif not options.long:
        cases = [case for case in cases if case.is_short]
    if options.list:
        for case in cases:
            print(f"{case.name}: {case.about}")
        return 0
    if not cases or not options.binary or options.long and options.short:
        parser.error("name a --binary, cases that there are (see --list), and one of --long and --short")
    # Connections of the honest ones, and pipes.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    # By way of the contexts, so that no host is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.setswitchinterval(0.0005)  # those who measure take turns quickly
    settings = Settings(str(pathlib.Path(options.binary).resolve()), options.long, options.seconds)
    failed = 0
    for case in cases:
        report, took = judge(case, settings)
        failed += not report.holds()
        if options.json:
            facts = [fact._asdict() for fact in report]
            print(json.dumps({"case": case.name, "holds": report.holds(), "seconds": round(took, 1), "facts": facts}), flush=True)
        else:
            print(line(case, report, took), flush=True)
    if not options.json:
        print(f"{len(cases) - failed} of {len(cases)} cases hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
