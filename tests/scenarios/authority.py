"""A certificate authority for the scenarios, by the openssl program."""
import ssl
import subprocess
import sys

import lib


def openssl(*args):
    done = subprocess.run([lib.tool("openssl"), *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"FAILED openssl {' '.join(args)}:\n{done.stderr}")
    return done.stdout


class Authority:
    def __init__(self, home, name="authority"):
        self.home = home
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9",
                "-subj", f"/CN={name}", "-keyout", f"{home}/ca.key", "-out", f"{home}/ca.pem")

    def issue(self, number, name="localhost", days=9):
        """PEM of certificate and key, ECDSA and RSA in turn; its serial number is `number`.

        With `days` below zero it has expired.
        """
        base = f"{self.home}/issued-{number}"
        kind = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"] if number % 2 else ["rsa:2048"]
        openssl("req", "-newkey", *kind, "-nodes", "-subj", f"/CN={name}", "-keyout", f"{base}.key", "-out", f"{base}.csr")
        with open(f"{base}.ext", "w") as out:
            out.write(f"subjectAltName=DNS:{name}\n")
        openssl("x509", "-req", "-in", f"{base}.csr", "-CA", f"{self.home}/ca.pem", "-CAkey", f"{self.home}/ca.key",
                "-set_serial", str(number), "-days", str(days), "-extfile", f"{base}.ext", "-out", f"{base}.crt")
        return open(f"{base}.crt").read(), open(f"{base}.key").read()

    def pair(self, number, name="localhost", days=9):
        """The paths of the files instead, certificate and key."""
        self.issue(number, name, days)
        return f"{self.home}/issued-{number}.crt", f"{self.home}/issued-{number}.key"

    def context(self):
        return ssl.create_default_context(cafile=f"{self.home}/ca.pem")
