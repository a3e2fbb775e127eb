#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asks each route of a document once, with an empty body: one line each of the status, the error's code and the route.

Usage: openapi_routes.py SOCKET DOCUMENT
"""
import json
import sys

from openapi import Connection, Document

with open(sys.argv[2], encoding="utf-8") as stream:
    document = Document(stream.read())
for operation in document.operations.values():
    connection = Connection(sys.argv[1])
    connection.request(operation.method, operation.url({name: 1 for name in operation.path_parameters}, None), b"{}")
    answer = connection.getresponse()
    text = answer.read()
    code = json.loads(text)["error"]["code"] if answer.status >= 400 else "-"
    print(answer.status, code, operation.method, operation.path)
