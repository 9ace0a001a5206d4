"""Lets the genuine Tahoe-LAFS crawler go once through a storage directory.

Usage: crawl_cycle.py [--pauses] DIR

DIR is a node's storage directory (the one with `shares` in it); nothing in it is changed. Expiration is off, as it is by
default: the crawler looks at every share and its leases. Without --pauses all of its work is done in one slice, which it
never does by itself: that is how fast it could be. With --pauses it runs as in a node: slices of a second, and rests of
nine (a tenth of the time by default); only the wait before the first slice is left out. Prints one line of JSON with the
seconds it took and the shares it examined.
"""

import json
import os
import sys
import tempfile
import time

from allmydata.storage.server import StorageServer
from twisted.internet import reactor


def at_once(crawler):
    crawler.cpu_slice = 10.0 ** 9
    crawler.allowed_cpu_percentage = 1.0
    crawler.start_current_prefix(time.time())


def with_pauses(crawler):
    def yielding(sleep_time):
        if crawler.get_state()["current-cycle"] is None:
            # After this slice, once its state is written.
            reactor.callLater(0, reactor.stop)

    crawler.slow_start = 0
    crawler.yielding = yielding
    reactor.callWhenRunning(crawler.startService)
    reactor.run()


def main():
    # Its state files go elsewhere; the shares are those of DIR.
    with tempfile.TemporaryDirectory() as folder:
        shares = os.path.join(os.path.abspath(sys.argv[-1]), "shares")
        os.symlink(shares, os.path.join(folder, "shares"))
        crawler = StorageServer(folder, b"\x00" * 20).lease_checker
        started = time.time()
        (with_pauses if "--pauses" in sys.argv else at_once)(crawler)
        seconds = time.time() - started
        history = crawler.get_state()["history"]
        cycle = history[max(history, key=int)]
        print(json.dumps({"seconds": seconds, "shares": cycle["space-recovered"]["examined-shares"]}))


main()
