# SPDX-License-Identifier: MIT OR Apache-2.0
"""A client of org.rdmad1 in another language: `objects` prints all objects as JSON, `watch FILE` writes a line for
each signal, `deaf` subscribes and never reads."""
import json
import sys
import time

from jeepney import DBusAddress, MatchRule, MessageType, HeaderFields, message_bus, new_method_call
from jeepney.io.blocking import open_dbus_connection

connection = open_dbus_connection(bus="SYSTEM")


def plain(value):
    """Variants without their signatures."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        return plain(value[1])
    if isinstance(value, dict):
        return {key: plain(of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(of) for of in value]
    return value


def subscribe():
    rule = MatchRule(type="signal", sender="org.rdmad1")
    reply = connection.send_and_get_reply(message_bus.AddMatch(rule))
    assert reply.header.message_type == MessageType.method_return, reply.body


if sys.argv[1] == "objects":
    manager = DBusAddress("/org/rdmad1", bus_name="org.rdmad1", interface="org.freedesktop.DBus.ObjectManager")
    reply = connection.send_and_get_reply(new_method_call(manager, "GetManagedObjects"))
    assert reply.header.message_type == MessageType.method_return, reply.body
    print(json.dumps(plain(reply.body[0])))
elif sys.argv[1] == "watch":
    subscribe()
    with open(sys.argv[2], "w") as file:
        print("listening", file=file, flush=True)
        while True:
            message = connection.receive()
            if message.header.message_type == MessageType.signal:
                fields = message.header.fields
                said = [fields[HeaderFields.member], fields[HeaderFields.path], *map(plain, message.body)]
                print(json.dumps(said), file=file, flush=True)
else:
    subscribe()
    time.sleep(600)
