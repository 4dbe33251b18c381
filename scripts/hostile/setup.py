"""Creates the data that the attacks and the ordinary client use."""

ATTACKS = ["filters", "patterns", "topics", "forms", "uploads", "json", "subscriptions", "deaf", "log-ins"]
RECORDS = 20_000
BATCH = 1000
# Accounts of the attack on log-ins, and the one of the ordinary client.
PASSWORD = "password-1"
GUESTS = ["guest1@example.com", "guest2@example.com", "guest3@example.com"]
QUIET = "quiet@example.com"

OPEN = {"listRule": "", "viewRule": "", "createRule": ""}
COLLECTIONS = [
    {"name": "pub", **OPEN, "fields": [{"name": "t", "type": "text"}]},
    {"name": "long", **OPEN, "fields": [{"name": "t", "type": "text"}]},
    {"name": "patterns", **OPEN, "fields": [{"name": "t", "type": "text", "pattern": "[a-z]{1,500}[0-9]{3}x"}]},
    {"name": "forms", **OPEN, "fields": [{"name": "t", "type": "text"}, {"name": "doc", "type": "file", "maxSize": 64 << 20}]},
    {"name": "loud", **OPEN, "fields": [{"name": "t", "type": "text"}]},
    {"name": "quiet", **OPEN, "fields": [{"name": "t", "type": "text"}, {"name": "n", "type": "number"}]},
    {"name": "_users", "type": "auth", "createRule": "", "fields": [{"name": "name", "type": "text"}]},
]


def make(server, token):
    """Makes collections, records and accounts."""
    for collection in COLLECTIONS:
        server.ask("POST", "/api/collections", collection, token)
    for start in range(0, RECORDS, BATCH):
        records = [{"method": "POST", "url": "/api/collections/pub/records", "body": {"t": f"record {start + at} of the public"}}
                   for at in range(BATCH)]
        server.ask("POST", "/api/batch", {"requests": records}, token)
    for at in range(200):
        server.ask("POST", "/api/collections/quiet/records", {"id": f"q{at}", "t": f"quiet {at}", "n": at}, token)
    for at in range(300):
        server.ask("POST", "/api/collections/long/records", {"t": f"{at} " + "x" * 15_000}, token)
    server.ask("POST", "/api/collections/long/records", {"id": "longest", "t": "a" * 4_100_000}, token)
    for email in [*GUESTS, QUIET]:
        server.ask("POST", "/api/auth/register", {"email": email, "password": PASSWORD, "name": email}, token)
