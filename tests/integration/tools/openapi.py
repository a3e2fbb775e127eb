# SPDX-License-Identifier: LGPL-2.1-or-later
"""A client that holds every answer of the daemon against the document that the daemon serves.

It reads HTTP and the document by Python's own means and jsonschema; it shares no code with the product.
"""
import http.client
import json
import socket
import urllib.parse

import jsonschema


class Mismatch(Exception):
    """An answer that the document does not allow."""


class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout=120):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Operation:
    def __init__(self, document, path, method, item):
        self.path, self.method = path, method.upper()
        self.id = item[method]["operationId"]
        self.responses = {int(code): document.follow(r) for code, r in item[method]["responses"].items()}
        parameters = [document.follow(p) for p in item.get("parameters", []) + item[method].get("parameters", [])]
        self.path_parameters = {p["name"]: p["schema"] for p in parameters if p["in"] == "path"}
        self.query = {p["name"]: p["schema"] for p in parameters if p["in"] == "query"}
        body = item[method].get("requestBody")
        self.body = document.follow(body["content"]["application/json"]["schema"]) if body else None
        self.body_is_required = bool(body and body["required"])
        self.seen = set()  # statuses

    def url(self, path, query):
        text = self.path
        for name, value in path.items():
            text = text.replace("{" + name + "}", urllib.parse.quote(str(value), safe="@"))
        return text + ("?" + urllib.parse.urlencode(query) if query else "")


class Document:
    def __init__(self, text):
        self.root = json.loads(text)
        self.resolver = jsonschema.RefResolver("", self.root)
        self.operations = {}
        for path, item in self.root["paths"].items():
            for method in item:
                if method != "parameters":
                    operation = Operation(self, path, method, item)
                    assert operation.id not in self.operations, operation.id
                    self.operations[operation.id] = operation

    def follow(self, node):
        while "$ref" in node:
            node = self.resolver.resolve(node["$ref"])[1]
        return node

    def check(self, schema, value, what):
        validator = jsonschema.Draft202012Validator(schema, resolver=self.resolver)
        problem = jsonschema.exceptions.best_match(validator.iter_errors(value))
        if problem:
            raise Mismatch(f"{what}: {'/'.join(map(str, problem.absolute_path))}: {problem.message}")

    def check_error(self, text, what):
        self.check({"$ref": "#/components/schemas/Error"}, parse(text, what), what)


def parse(text, what):
    try:
        return json.loads(text)
    except ValueError as error:
        raise Mismatch(f"{what}: no JSON: {text[:200]!r}") from error


class Client:
    def __init__(self, path):
        self.path = path
        status, _, text = self.raw("GET", "/v1/openapi.json")
        assert status == 200, text
        self.text = text
        self.document = Document(text)

    def raw(self, method, url, body=None, headers=()):
        """(status, headers, bytes)"""
        connection = Connection(self.path)
        try:
            connection.request(method, url, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def check_answer(self, operation, status, headers, text):
        what = f"{operation.method} {operation.path} -> {status}"
        if status not in operation.responses:
            raise Mismatch(f"{what}: this status is not documented: {text[:300]!r}")
        operation.seen.add(status)
        content = operation.responses[status].get("content")
        if not content:
            if text:
                raise Mismatch(f"{what}: a body where none is documented")
            return None
        kind = headers["Content-Type"].partition(";")[0]
        if kind not in content:
            raise Mismatch(f"{what}: Content-Type {kind} is not documented")
        if kind != "application/json":
            return text
        value = parse(text, what)
        self.document.check(content[kind]["schema"], value, what)
        return value

    def call(self, id_, path=None, query=None, body=None, expect=None):
        """What OPERATION answers, checked; EXPECT: its status must be this one."""
        operation = self.document.operations[id_]
        data = json.dumps(body).encode() if body is not None else b"" if operation.method == "POST" else None
        status, headers, text = self.raw(operation.method, operation.url(path or {}, query), data)
        value = self.check_answer(operation, status, headers, text)
        if expect and status != expect:
            raise Mismatch(f"{id_}: status {status}, not {expect}: {text[:300]!r}")
        return value
