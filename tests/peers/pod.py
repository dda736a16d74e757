"""Of packaging/container/kubernetes.yaml makes what `podman kube play` 4.3 takes: the pod of its StatefulSet with the ConfigMap, the Secret as another one, no
probes (they need systemd there). Prints the probes as JSON: path and port of each. Arguments: the file, where the pod goes, the endpoint's URL, the token."""
import json
import sys

import yaml

source, target, url, token = sys.argv[1:]
kinds = {document["kind"]: document for document in yaml.safe_load_all(open(source))}
stateful = kinds["StatefulSet"]["spec"]
pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mailsluice-0"}, "spec": stateful["template"]["spec"]}
[container] = pod["spec"]["containers"]
# This Podman has the profile's former place.
profile = pod["spec"]["securityContext"].pop("seccompProfile")
assert profile["type"] == "Localhost"
pod["metadata"]["annotations"] = {"seccomp.security.alpha.kubernetes.io/pod": "localhost/" + profile["localhostProfile"]}
ports = {port["name"]: port["containerPort"] for port in container["ports"]}
probes = {}
for name in ["startupProbe", "readinessProbe", "livenessProbe"]:
    get = container.pop(name)["httpGet"]
    probes[name] = [get["path"], ports[get["port"]]]
container["imagePullPolicy"] = "Never"
configuration = kinds["ConfigMap"]
text = configuration["data"]["mailsluice.toml"]
assert "http://app.default.svc.cluster.local/inbound" in text
configuration["data"]["mailsluice.toml"] = text.replace("http://app.default.svc.cluster.local/inbound", url)
assert list(kinds["Secret"]["stringData"]) == ["admin.token"]
secret = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "secret"}, "data": {"admin.token": token}}
for volume in pod["spec"]["volumes"]:
    if volume.pop("secret", None):
        volume["configMap"] = {"name": "secret"}
for claim in stateful["volumeClaimTemplates"]:
    name = claim["metadata"]["name"]
    pod["spec"]["volumes"].append({"name": name, "persistentVolumeClaim": {"claimName": name}})
with open(target, "w") as file:
    yaml.safe_dump_all([configuration, secret, pod], file)
print(json.dumps(probes))
