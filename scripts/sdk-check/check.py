"""The Python package pocketbase against a server: `check.py URL EMAIL PASSWORD`. It logs in, lists, and hears an event."""
import queue
import sys

from pocketbase import PocketBase

EVENT_SECONDS_MAX = 20

url, email, password = sys.argv[1:]
client = PocketBase(url)
signed_in = client.collection("_superusers").auth_with_password(email, password)
assert signed_in.token and client.auth_store.token == signed_in.token

client.collections.create({"name": "python_notes", "fields": [{"name": "title", "type": "text"}]})
notes = client.collection("python_notes")
for title in ("one", "two", "three"):
    notes.create({"title": title})
page = notes.get_list(1, 2, {"sort": "title", "filter": "title != 'three'"})
assert [it.title for it in page.items] == ["one", "two"], page.items
assert page.total_items == 2
assert len(notes.get_full_list()) == 3

heard, made = queue.Queue(), []
# The client subscribes in a thread of its own and does not say when that is done.
notes.subscribe(heard.put)
for _ in range(EVENT_SECONDS_MAX):
    made.append(notes.create({"title": "four"}).id)
    try:
        event = heard.get(timeout=1)
        break
    except queue.Empty:
        continue
else:
    raise SystemExit(f"no event within {EVENT_SECONDS_MAX} s")
assert event.action == "create" and event.record.id in made and event.record.title == "four", event
notes.unsubscribe()
print(f"ok  python: logged in, listed {page.total_items} of 3, heard {event.action} of {event.record.id}")
