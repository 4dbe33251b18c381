"""The Python package pocketbase against a server: `check.py URL EMAIL PASSWORD`. It runs the examples of its
documentation, lists, hears an event, and creates a backup. It leaves the collection python_notes."""
import io
import queue
import sys
import urllib.request

from pocketbase import PocketBase
from pocketbase.client import ClientResponseError, FileUpload

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

# The examples of the documentation.
user = {"email": "user@example.com", "password": "0123456789"}
members = client.collections.create({"name": "python_users", "type": "auth", "createRule": ""})
rule = '@request.auth.id != ""'
client.collections.create({"name": "python_example", "listRule": rule, "createRule": rule, "viewRule": "", "fields": [
    {"name": "status", "type": "bool"}, {"name": "image", "type": "file", "maxSelect": 1},
    {"name": "created", "type": "autodate", "onCreate": True}]})
guest = PocketBase(url)
guest.collection("python_users").create({**user, "passwordConfirm": user["password"]})
assert guest.collection("python_users").auth_with_password(user["email"], user["password"]).is_valid
assert client.admins.auth_with_password(email, password).is_valid
image = FileUpload(("image.png", io.BytesIO(b"an image")))
created = guest.collection("python_example").create({"status": "true", "image": image})
found = guest.collection("python_example").get_list(1, 20, {"filter": 'status = true && created > "2022-08-01 10:00:00"'})
assert [it.id for it in found.items] == [created.id], found.items
with urllib.request.urlopen(guest.get_file_url(created, created.image)) as answer:
    assert answer.read() == b"an image"
try:
    PocketBase(url).collection("python_example").create({"status": True})
    raise SystemExit("a guest created a record")
except ClientResponseError as refusal:
    assert refusal.status == 400, refusal.status
for name in ("python_example", "python_users"):
    client.collections.delete(name)

client.backups.create("python.zip")
assert "python.zip" in [it.key for it in client.backups.get_full_list()]
client.backups.delete("python.zip")
print(f"ok  python: logged in, listed {page.total_items} of 3, heard {event.action} of {event.record.id}")
