"""A federation on this machine as it would run on three: a SuperLink and two SuperNodes over TLS.

    python docs/flower/deploy.py FOLDER

makes certificates in FOLDER, starts the three processes, sends them the app that lies beside this file, waits for
the trained network in FOLDER/network.safetensors, and stops everything. On machines of your own, run the three
commands that `superlink` and `supernode` build, with your host's name in the certificate.
"""

import datetime
import ipaddress
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

APP = Path(__file__).resolve().parent


def certificates(folder, host="127.0.0.1"):
    """An authority of our own, and a certificate of the SuperLink signed by it."""
    now = datetime.datetime.now(datetime.UTC)

    def write(name, key, subject, issuer, signer, *extensions):
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=30))
        )
        for extension, critical in extensions:
            made = made.add_extension(extension, critical=critical)
        signed = made.sign(signer, hashes.SHA256())
        (folder / f"{name}.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("our authority", host)
    ]
    use = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"),
        False,
    )  # fmt: skip
    signs = x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **use)
    own = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    write("ca", authority, names[0], names[0], authority, (x509.BasicConstraints(True, 0), True), (signs, True),
          (own, False))  # fmt: skip
    also = [x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")]
    write("server", server, names[1], names[0], authority, (x509.BasicConstraints(False, None), True),
          (x509.SubjectAlternativeName(also), False),
          (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False))  # fmt: skip
    pem = server.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.key").write_bytes(pem)
    (folder / "server.key").chmod(0o600)


def environment(folder, name):
    """No telemetry, no look for updates, nothing installed behind our back; each process has files of its own."""
    return {
        **os.environ,
        "FLWR_HOME": str(folder / f"flwr-{name}"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        # Flower starts its own programs by name: those of this Python.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder, name, *command):
    """A process of its own group, its output in FOLDER/NAME.log."""
    program = str(Path(sys.executable).parent / command[0])
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [program, *command[1:]],
            env=environment(folder, name),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def superlink(folder, port):
    """The server's process."""
    return start(
        folder, "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", str(port),
        "--ssl-certfile", str(folder / "server.crt"), "--ssl-keyfile", str(folder / "server.key"),
        "--ssl-ca-certfile", str(folder / "ca.crt"),
    )  # fmt: skip


def supernode(folder, port, client):
    """A client's process; what it remembers lies in FOLDER/state, and outlives it."""
    node = f'partition-id={client} state-dir="{folder / "state"}"'
    return start(
        folder, f"supernode-{client}", "flower-supernode", "--superlink", f"127.0.0.1:{port}",
        "--root-certificates", str(folder / "ca.crt"), "--host", "127.0.0.1", "--port", str(free_port()),
        "--node-config", node,
    )  # fmt: skip


def submit(folder, port, **settings):
    """Send the app to the SuperLink; `settings` are its run configuration."""
    home = folder / "flwr-submit"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{folder / "ca.crt"}"\n'
    )
    words = " ".join(f'{k}="{v}"' if isinstance(v, str) else f"{k}={v}" for k, v in settings.items())
    program = str(Path(sys.executable).parent / "flwr")
    sent = subprocess.run(
        [program, "run", str(APP), "here", "--run-config", words],
        env=environment(folder, "submit"), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if sent.returncode:
        raise RuntimeError(f"flwr run failed:\n{sent.stdout}{sent.stderr}")
    return sent.stdout


def listening(port, process, seconds=90):
    """Wait until somebody answers at the port."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError("the SuperLink has ended: see superlink.log")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.3)
    raise TimeoutError("the SuperLink does not answer: see superlink.log")


def wait_for(path, seconds, *processes):
    """Wait for a file, as long as the processes live."""
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"{path.name} did not come in {seconds} s: see the logs")
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("a process has ended early: see the logs")
        time.sleep(0.3)


def stop(*processes):
    """End the processes and all that they started."""
    for process in processes:
        for signal in (15, 9):
            try:
                os.killpg(process.pid, signal)
                process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def main(folder, rounds=5):
    """The whole of it."""
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    out, port, running = folder / "network.safetensors", free_port(), []
    out.unlink(missing_ok=True)
    certificates(folder)
    try:
        running.append(superlink(folder, port))
        listening(port, running[0])
        running += [supernode(folder, port, client) for client in range(2)]
        print(submit(folder, port, rounds=rounds, out=str(out)).strip())
        wait_for(out, 600, *running)
    finally:
        stop(*reversed(running))
    print(f"trained: {out}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "federation")
