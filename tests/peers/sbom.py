"""Is this file CycloneDX 1.5 by its own schema, strictly? Prints name@version of each component."""
import json
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text = open(sys.argv[1]).read()
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
assert error is None, error
for component in json.loads(text)["components"]:
    print(f"{component['name']}@{component['version']}")
