"""Clients that vanish: they break connections off wherever it may hurt, as often as they are told to.

misbehave.py HOST PORT CERTIFICATE_AND_KEY NAMESPACE POD ROUNDS; says what each kind of misbehaviour came to.
"""

import json
import socket
import ssl
import struct
import sys

HOST, PORT, CREDENTIAL, NAMESPACE, POD, ROUNDS = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6], int(sys.argv[6])
CONTEXT = ssl.create_default_context()
CONTEXT.check_hostname = False
CONTEXT.verify_mode = ssl.CERT_NONE
CONTEXT.load_cert_chain(CREDENTIAL)
CONTEXT.set_alpn_protocols(["http/1.1"])
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


def connect():
    return CONTEXT.wrap_socket(socket.create_connection((HOST, PORT), timeout=60), server_hostname=HOST)


def hang_up(connection, rudely):
    """A reset where rudely, the end of the connection otherwise; never a farewell in TLS."""
    if rudely:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket(fileno=connection.detach()).close()


def send(connection, method, path, headers="", body=b""):
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{headers}{length}\r\n".encode() + body)


def config_map(name, size):
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"filling": "x" * size}}).encode()


MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
JSON = "Content-Type: application/json\r\n"


def before_tls(number, rudely):
    hang_up(socket.create_connection((HOST, PORT), timeout=60), rudely)


def after_tls(number, rudely):
    hang_up(connect(), rudely)


def in_a_head(number, rudely):
    connection = connect()
    connection.sendall(b"GET /api/v1/namespaces HTTP/1.1\r\nHost: half")
    hang_up(connection, rudely)


def in_a_body(number, rudely):
    connection = connect()
    body = config_map(f"half-{number}", 200_000)
    connection.sendall(f"POST {MAPS} HTTP/1.1\r\nHost: {HOST}\r\n{JSON}Content-Length: {len(body)}\r\n\r\n".encode() + body[: len(body) // 2])
    hang_up(connection, rudely)


def after_a_body(number, rudely):
    connection = connect()
    send(connection, "POST", MAPS, JSON, config_map(f"whole-{number}", 1000))
    hang_up(connection, rudely)


def in_a_list(number, rudely):
    connection = connect()
    send(connection, "GET", "/api/v1/configmaps")
    connection.recv(1000)
    hang_up(connection, rudely)


def in_a_watch(number, rudely):
    connection = connect()
    send(connection, "GET", f"{MAPS}?watch=true")
    connection.recv(1000)
    hang_up(connection, rudely)


def in_a_log(number, rudely):
    connection = connect()
    send(connection, "GET", f"/api/v1/namespaces/{NAMESPACE}/pods/{POD}/log?follow=true")
    connection.recv(1000)
    hang_up(connection, rudely)


def upgraded(path, protocol, rudely, read):
    connection = connect()
    send(connection, "GET", f"/api/v1/namespaces/{NAMESPACE}/pods/{POD}/{path}", f"{UPGRADE}Sec-WebSocket-Protocol: {protocol}\r\n")
    answer = b""
    while len(answer) < read:
        part = connection.recv(65536)
        assert part, answer
        answer += part
        assert answer.startswith(b"HTTP/1.1 101"), answer
    hang_up(connection, rudely)


def in_the_output_of_a_command(number, rudely):
    upgraded("exec?command=yes&stdout=true", "v5.channel.k8s.io", rudely, 100_000)


def in_the_input_of_a_command(number, rudely):
    upgraded("exec?command=cat&stdin=true&stdout=true", "v4.channel.k8s.io", rudely, 12)


def on_a_terminal(number, rudely):
    upgraded("exec?command=sh&stdin=true&stdout=true&tty=true", "v5.channel.k8s.io", rudely, 200)


def in_a_forwarded_port(number, rudely):
    upgraded("portforward?ports=8080", "v4.channel.k8s.io", rudely, 12)


def in_spdy(number, rudely):
    """As kubectl before 1.31 begins: upgraded, and gone before it opens a stream."""
    path = ["exec?command=cat&stdin=true&stdout=true", "portforward"][number // 2 % 2]
    protocol = ["v4.channel.k8s.io", "portforward.k8s.io"][number // 2 % 2]
    connection = connect()
    headers = f"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n"
    send(connection, "POST", f"/api/v1/namespaces/{NAMESPACE}/pods/{POD}/{path}", headers + "Content-Length: 0\r\n")
    answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    hang_up(connection, rudely)


KINDS = [
    before_tls, after_tls, in_a_head, in_a_body, after_a_body, in_a_list, in_a_watch, in_a_log, in_the_output_of_a_command,
    in_the_input_of_a_command, on_a_terminal, in_a_forwarded_port, in_spdy,
]
for kind in KINDS:
    for number in range(ROUNDS):
        kind(number, rudely=number % 2 == 0)
    print(kind.__name__, flush=True)
