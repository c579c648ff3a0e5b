#!/usr/bin/env python3
"""A second verifier of bundles, by a JOSE library that is not ours.

    verify_bundles --genesis genesis.json BUNDLE...

Needs joserfc (https://jose.authlib.org), which `scripts/setup --test` installs. It shares no code with the project and
knows it by DESIGN alone: whose signature each must be, over what, and which keys and policies the history leads to. How
ballots are counted by a rule, and how a subject is derived from a start, is for `assent verify`. For each bundle it prints
how many signatures are good, or the first thing that is not as it must be. Exit codes: 0 all are good, 4 one is not, 2
usage.
"""

import argparse
import sys

from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import JoseError

from bundle import Verifier
from encoding import Bad
from standing import Genesis


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genesis", required=True)
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE")
    arguments = parser.parse_args()
    with open(arguments.genesis, "rb") as file:
        genesis = Genesis(file.read())
    exit_code = 0
    for path in arguments.bundles:
        with open(path, "rb") as file:
            content = file.read()
        try:
            print(f"{path}: {Verifier(genesis).verify(content)} signatures are good")
        except (Bad, JoseError, UnsupportedAlgorithm, LookupError, TypeError, ValueError, AttributeError) as error:
            print(f"{path}: not good: {error if isinstance(error, Bad) else repr(error)}")
            exit_code = 4
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
