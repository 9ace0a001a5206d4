"""Runs the genuine Tahoe-LAFS storage server on loopback, over HTTPS and over Foolscap.

Usage: storage_server.py DIR

It is the server of the installed `tahoe-lafs`, nothing of it is replaced; only the node around it (introducer,
web pages, log files) is left out, which makes it a little faster than a whole node. Prints one line of JSON with
the NURL and the FURL when it accepts connections and stops at SIGTERM. Each protocol has a port of its own.
"""

import datetime
import json
import os
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.python.filepath import FilePath
from foolscap.api import Tub

from allmydata import __version__
from allmydata.storage.http_server import HTTPServer, listen_tls
from allmydata.storage.server import FoolscapStorageServer, StorageServer


def write_certificate(key_path, certificate_path):
    """RSA with 2048 bits, self-signed: what a node makes for itself."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "storage")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365)).sign(key, hashes.SHA256())
    )
    with open(key_path, "wb") as f:
        f.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                  serialization.NoEncryption()))
    with open(certificate_path, "wb") as f:
        f.write(certificate.public_bytes(serialization.Encoding.PEM))


def main():
    directory = sys.argv[1]
    os.makedirs(directory, exist_ok=True)
    key_path, certificate_path = (os.path.join(directory, name) for name in ("key.pem", "certificate.pem"))
    write_certificate(key_path, certificate_path)
    storage = StorageServer(os.path.join(directory, "storage"), b"\x00" * 20)
    server = HTTPServer(reactor, storage, b"referenceswissnum")

    tub = Tub(certFile=os.path.join(directory, "node.pem"))
    tub.startService()
    listener = tub.listenOn("tcp:0:interface=127.0.0.1")

    def announce(result):
        nurl, _port = result
        tub.setLocation("tcp:127.0.0.1:%d" % (listener.getPortnum(),))
        furl = tub.registerReference(FoolscapStorageServer(storage), name="referenceswissnum")
        print(json.dumps({"nurl": nurl.to_text(), "furl": furl, "version": __version__}), flush=True)

    def failed(failure):
        failure.printTraceback(sys.stderr)
        reactor.stop()

    listening = listen_tls(server, "127.0.0.1", TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
                           FilePath(key_path), FilePath(certificate_path))
    listening.addCallbacks(announce, failed)
    reactor.run()


main()
