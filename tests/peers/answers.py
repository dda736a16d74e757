"""Posts to each URL with requests; prints the status, or `none` where it got no response."""

import sys

import requests

for url in sys.argv[1:]:
    try:
        print(requests.post(url, data=b"m", timeout=3, allow_redirects=False).status_code)
    except (requests.RequestException, ValueError):
        print("none")
