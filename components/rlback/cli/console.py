"""`console`, `users` and `export`: the browser console, its accounts, and what was labelled."""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import json
import sys

from rlback.cli.output import actor_of, next_command, say
from rlback.errors import ConfigError


def console(options: argparse.Namespace) -> int:
    """Serves the console until it is stopped."""
    import uvicorn

    from rlback.accounts.users import count_users
    from rlback.project import find_project
    from rlback.web.app import make_app
    from rlback.web.settings import allow_connections, read_settings

    project = find_project()
    settings = read_settings(project.root)
    allow_connections(settings.connections)
    guard = make_app(project, port=options.port, names=tuple(options.name))
    users = count_users(project.store)
    local = _is_loopback(options.host)
    if not local and not users:
        raise ConfigError(
            f"{options.host} can be reached from other machines, and there are no users",
            remedy="rlback users add NAME --role admin",
        )
    shown = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{shown if local else options.name[0] if options.name else shown}:{options.port}/"
    first = f"{address}setup?code={guard.console.setup_code}" if not users else None  # type: ignore[attr-defined]
    if options.json:
        print(json.dumps({"address": address, "users": users, "setup": first}), flush=True)
    else:
        say(f"The console of {project.root}: {address}")
        if first:
            say(f"There are no users yet. Make the first admin: {first}")
        if not local:
            say("Put a proxy that speaks HTTPS before it: passwords and cookies cross the network.")
        say("Ctrl-C stops it; nothing recorded is lost.")
        sys.stdout.flush()
    config = uvicorn.Config(
        guard, host=options.host, port=options.port, log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, lifespan="off", limit_concurrency=settings.connections, timeout_keep_alive=5, ws="none",
    )  # fmt: skip
    from rlback.orchestration.delivering import Deliverer

    deliverer = Deliverer(project, lambda line: print(line, file=sys.stderr, flush=True))
    guard.console.kick = deliverer.kick  # type: ignore[attr-defined]
    deliverer.start()
    try:
        uvicorn.Server(config).run()
    except KeyboardInterrupt:
        return 0
    except SystemExit:
        where = f"{options.host} port {options.port}"
        raise ConfigError(f"{where} cannot be listened on", remedy="choose another with --port") from None
    finally:
        deliverer.stop()
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def users_add(options: argparse.Namespace) -> int:
    """Adds a user; the password is asked for, or read from standard input where that is no terminal."""
    from rlback.accounts.users import add_user, count_users
    from rlback.project import find_project

    store = find_project().store
    if not count_users(store) and "admin" not in options.role:
        raise ConfigError("the first user must be an admin", remedy="add --role admin")
    user = add_user(store, options.name, _password(), options.role, actor_of(options))
    if options.json:
        print(json.dumps({"user": user.name, "roles": user.roles}))
    else:
        say(f"{user.name} is added with {', '.join(user.roles)}.")
        next_command("rlback console")
    return 0


def users_list(options: argparse.Namespace) -> int:
    """Lists the accounts."""
    from rlback.accounts.users import list_users
    from rlback.project import find_project

    found = list_users(find_project().store)
    if options.json:
        print(json.dumps([{"user": u.name, "roles": u.roles, "state": u.state, "created": u.created} for u in found], indent=2))
        return 0
    for user in found:
        say(f"{user.name}  {', '.join(user.roles)}  {user.state}")
    if not found:
        say("There are no users.")
        next_command("rlback users add NAME --role admin")
    return 0


def users_change(options: argparse.Namespace) -> int:
    """Changes roles, state or password of a user."""
    from rlback.accounts import users
    from rlback.project import find_project

    store, actor = find_project().store, actor_of(options)
    if options.role:
        users.set_roles(store, options.name, options.role, actor)
    if options.disable or options.enable:
        users.set_state(store, options.name, "disabled" if options.disable else "active", actor, options.reason)
    if options.password:
        users.set_password(store, options.name, _password(), actor)
    user = users.find_user(store, options.name)
    if options.json:
        print(json.dumps({"user": user.name, "roles": user.roles, "state": user.state}))
    else:
        say(f"{user.name}: {', '.join(user.roles)}, {user.state}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Writes the labels of a batch."""
    from pathlib import Path

    from rlback.labelling.exports import export_batch
    from rlback.project import find_project

    content = export_batch(find_project().store, options.batch, options.form, actor_of(options))
    if options.output:
        Path(options.output).write_bytes(content)
        say(f"{content.count(chr(10).encode())} lines in {options.output}")
    else:
        sys.stdout.write(content.decode())
    return 0


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    once, again = getpass.getpass("Password: "), getpass.getpass("Again: ")
    if once != again:
        raise ConfigError("the two passwords differ", remedy="type the same one twice")
    return once
