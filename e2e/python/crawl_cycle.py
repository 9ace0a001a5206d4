"""Lets the genuine Tahoe-LAFS crawler go once through a storage directory, without the pauses it makes.

Usage: crawl_cycle.py DIR

DIR is a node's storage directory (the one with `shares` in it); nothing in it is changed but the crawler's state
files. Expiration is off, as it is by default: the crawler looks at every share and its leases. Prints one line of
JSON with the seconds it took and the shares it examined.
"""

import json
import os
import sys
import time

from allmydata.storage.server import StorageServer


def main():
    storage = StorageServer(os.path.abspath(sys.argv[1]), b"\x00" * 20)
    crawler = storage.lease_checker
    # One slice that never ends: all of the machine, no rest.
    crawler.cpu_slice = 10.0 ** 9
    crawler.allowed_cpu_percentage = 1.0
    crawler.load_state()
    started = time.time()
    crawler.start_current_prefix(started)
    seconds = time.time() - started
    history = crawler.get_state()["history"]
    cycle = history[max(history, key=int)]
    print(json.dumps({"seconds": seconds, "shares": cycle["space-recovered"]["examined-shares"]}))


main()
