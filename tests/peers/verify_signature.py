"""Verifies a request by the standardwebhooks module. Arguments: body, id, timestamp, signature, then secrets; prints for each whether it verifies."""

import sys
from pathlib import Path

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

body = Path(sys.argv[1]).read_bytes()
headers = {"webhook-id": sys.argv[2], "webhook-timestamp": sys.argv[3], "webhook-signature": sys.argv[4]}
for secret in sys.argv[5:]:
    try:
        Webhook(secret).verify(body, headers, json_parse=False)
        print("yes")
    except WebhookVerificationError:
        print("no")
