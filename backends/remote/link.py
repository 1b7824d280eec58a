"""The process that holds a session with a device. Its argument is the address.

Talk over the connection: a name and what belongs to it comes; ``("done", bytes)`` goes, or ``("lost", reason)``, and then it
ends, as a session that failed once is of no use.
"""

from __future__ import annotations

from fxopt.backends.remote.address import Address
from fxopt.backends.remote.child import hide_torch, parents_end
from fxopt.backends.remote.connect import connect
from fxopt.backends.remote.service import REQUEST


def main() -> None:
    """Serve the parent until it closes the connection."""
    connection, (address,) = parents_end()
    hide_torch()
    with connection:
        try:
            session = connect(Address.parse(address))
            request = session.get_function(REQUEST)
            connection.send(("done", b""))
            while True:
                verb, what = connection.recv()
                if verb == "upload":
                    session.upload(*what)
                    connection.send(("done", b""))
                else:
                    connection.send(("done", bytes(request(what))))
        except EOFError:
            return
        except Exception as error:
            connection.send(("lost", str(error).strip() or type(error).__name__))
