#!/usr/bin/env python3
"""The chart, rendered by helm and looked at: every scenario of its `ci/` against the schemas of Kubernetes, every
condition of its templates both ways, and that its parts agree with each other and with the program.

    tests/chart.py                 all; `.ci/run chart` has what it takes: helm, and the packages below
    tests/chart.py Conditions      a class, or a test, of it

Custom resources come with no schema: that of HTTPRoute is looked for in the directory that GATEWAY_API_DIR names (its Go
module), the rules are given to `promtool` if it is there. What stays unchecked is printed at the end.
"""

import atexit
import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import tomllib
import unittest

import jsonschema
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "release-server"
SCENARIOS = sorted((CHART / "ci").glob("*.yaml"))
# The oldest that the chart is for, and the newest at hand.
VERSIONS = ("1.30", "1.37")

S3 = {"image": {"repository": "r"}, "storage": {"s3": {"bucket": "b"}}}
PVC = {"image": {"repository": "r"}, "storage": {"type": "pvc"}}
TRIAL = {"image": {"repository": "r"}, "minio": {"enabled": True}}

UNCHECKED = set()
atexit.register(lambda: [print(f"NOT VALIDATED: {what}") for what in sorted(UNCHECKED)])


def merged(one, other):
    """`other` over `one`, maps key by key."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    return {key: merged(one.get(key, {}), other[key]) if key in other else one[key] for key in {**one, **other}}


def helm(*arguments):
    done = subprocess.run(["helm", *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def template(values, *arguments):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        return helm("template", "rel", CHART, "--namespace", "ns", "--values", file.name, *arguments)


class Rendered:
    """The objects that values come to."""

    def __init__(self, base, *changes):
        values = base
        for change in changes:
            values = merged(values, change)
        status, output, error = template(values)
        assert status == 0, error
        self.objects = [document for document in yaml.safe_load_all(output) if document]

    def find(self, kind, ending=""):
        """The object of that kind whose name ends so; `None` if there is none."""
        found = [o for o in self.objects if o["kind"] == kind and o["metadata"]["name"] == f"rel-release-server{ending}"]
        assert len(found) <= 1, f"{len(found)} {kind}{ending}"
        return found[0] if found else None

    @property
    def deployment(self):
        return self.find("Deployment")["spec"]

    @property
    def pod(self):
        return self.deployment["template"]["spec"]

    @property
    def container(self):
        return self.pod["containers"][0]

    @property
    def env(self):
        return {v["name"]: v.get("value", v.get("valueFrom")) for v in self.container["env"] or []}

    @property
    def config(self):
        return yaml.safe_load(self.find("ConfigMap")["data"]["config.yaml"])

    @property
    def pods(self):
        """Every pod, and template of one."""
        for found in self.objects:
            match found["kind"]:
                case "Pod":
                    yield found["spec"]
                case "Deployment" | "Job":
                    yield found["spec"]["template"]["spec"]
                case "CronJob":
                    yield found["spec"]["jobTemplate"]["spec"]["template"]["spec"]


class Scenarios(unittest.TestCase):
    def rendered(self):
        for scenario in SCENARIOS:
            with self.subTest(scenario.name):
                status, output, error = helm("template", "rel", CHART, "--namespace", "ns", "--values", scenario)
                self.assertEqual(status, 0, error)
                yield scenario.name, [document for document in yaml.safe_load_all(output) if document]

    def test_lint(self):
        self.assertGreaterEqual(len(SCENARIOS), 8)
        for values in [[], *([["--values", scenario]] for scenario in SCENARIOS)]:
            arguments = values[0] if values else []
            status, output, error = helm("lint", "--strict", CHART, *arguments)
            self.assertEqual(status, 0, output + error)

    def test_objects_are_valid(self):
        for scenario, objects in self.rendered():
            names = [(found["kind"], found["metadata"]["name"]) for found in objects]
            self.assertEqual(len(names), len(set(names)), f"{scenario}: a name is taken twice")
            for found in objects:
                if "." not in found["apiVersion"].partition("/")[0] or "k8s.io" in found["apiVersion"]:
                    if found["apiVersion"].startswith("gateway."):
                        self.custom(found)
                        continue
                    for version in VERSIONS:
                        kubernetes_validate.validate(found, version, strict=True)
                else:
                    self.custom(found)

    def custom(self, found):
        kind = found["kind"]
        if kind == "HTTPRoute" and (directory := os.environ.get("GATEWAY_API_DIR")):
            path = pathlib.Path(directory) / "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"
            versions = yaml.safe_load(path.read_text())["spec"]["versions"]
            schema = next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"]
            jsonschema.validate(found, closed(schema))
        elif kind == "PrometheusRule" and shutil.which("promtool"):
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(found["spec"], file)
                file.flush()
                done = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        else:
            UNCHECKED.add(f"{kind}, but for what the tests say of it")

    def test_pods_are_restricted(self):
        """As https://kubernetes.io/docs/concepts/security/pod-security-standards/ has it."""
        allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
        for scenario in SCENARIOS:
            values = yaml.safe_load(scenario.read_text())
            # They are the operator's own.
            values.update(extraContainers=[], extraInitContainers=[])
            with self.subTest(scenario.name):
                for pod in Rendered(values).pods if "fullnameOverride" not in values else []:
                    self.assertIs(pod["automountServiceAccountToken"], False)
                    self.assertIs(pod["securityContext"]["runAsNonRoot"], True)
                    self.assertGreater(pod["securityContext"]["runAsUser"], 0)
                    self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                    for container in pod["containers"] + pod.get("initContainers", []):
                        context = container["securityContext"]
                        self.assertIs(context["allowPrivilegeEscalation"], False)
                        self.assertIs(context["readOnlyRootFilesystem"], True)
                        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                    for volume in pod["volumes"]:
                        self.assertLessEqual(set(volume) - {"name"}, allowed)

    def test_no_value_is_rendered_as_a_go_one(self):
        for scenario, objects in self.rendered():
            for bad in ("<no value>", "%!", "map[", "<nil>"):
                self.assertNotIn(bad, yaml.safe_dump(objects), scenario)


def closed(schema):
    """The schema with unknown fields refused, as `kubectl apply` does (strict field validation)."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(part) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        # The metadata has no schema of its own.
        if schema["properties"] and "additionalProperties" not in schema and "x-kubernetes-preserve-unknown-fields" not in schema:
            schema["additionalProperties"] = False
    return schema


class Conditions(unittest.TestCase):
    def refused(self, values, *words):
        status, _, error = template(values)
        self.assertNotEqual(status, 0, "rendered, but should have been refused")
        for word in words:
            self.assertIn(word, error)

    # Where packages are

    def test_without_a_place_or_an_image_it_says_what_to_set(self):
        self.refused({}, "image.repository", "storage.s3.bucket", "storage.type=pvc", "minio.enabled=true")
        self.refused({"image": {"repository": "r"}}, "storage.s3.bucket")
        self.refused({"storage": {"s3": {"bucket": "b"}}}, "image.repository")

    def test_bucket(self):
        r = Rendered(S3)
        self.assertEqual(r.config["storage_url"], "s3://b")
        self.assertNotIn("storage_path", r.config)
        self.assertEqual(r.env["AWS_REGION"], "us-east-1")
        for absent in ("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            self.assertNotIn(absent, r.env)
        self.assertIsNone(r.find("PersistentVolumeClaim"))
        self.assertEqual([volume["name"] for volume in r.pod["volumes"]], ["config"])

    def test_bucket_with_prefix_keys_and_endpoint(self):
        s3 = {"prefix": "/a/b/", "endpoint": "http://m:9000", "existingSecret": "k", "accessKeyIdKey": "id"}
        r = Rendered(S3, {"storage": {"s3": s3}})
        self.assertEqual(r.config["storage_url"], "s3://b/a/b")
        self.assertEqual(r.env["AWS_ENDPOINT_URL"], "http://m:9000")
        self.assertEqual(r.env["AWS_ALLOW_HTTP"], "true")
        self.assertEqual(r.env["AWS_ACCESS_KEY_ID"], {"secretKeyRef": {"name": "k", "key": "id"}})
        self.assertEqual(r.env["AWS_SECRET_ACCESS_KEY"], {"secretKeyRef": {"name": "k", "key": "AWS_SECRET_ACCESS_KEY"}})
        encrypted = Rendered(S3, {"storage": {"s3": {"endpoint": "https://m"}}})
        self.assertNotIn("AWS_ALLOW_HTTP", encrypted.env)

    def test_a_role_comes_by_the_service_account(self):
        r = Rendered(S3, {"serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}}})
        account = r.find("ServiceAccount")
        self.assertEqual(account["metadata"]["annotations"], {"eks.amazonaws.com/role-arn": "arn"})
        self.assertIs(account["automountServiceAccountToken"], False)
        self.assertEqual(r.pod["serviceAccountName"], "rel-release-server")
        r = Rendered(S3, {"serviceAccount": {"create": False}})
        self.assertIsNone(r.find("ServiceAccount"))
        self.assertEqual(r.pod["serviceAccountName"], "default")
        self.assertEqual(Rendered(S3, {"serviceAccount": {"create": False, "name": "mine"}}).pod["serviceAccountName"], "mine")

    def test_volume(self):
        r = Rendered(PVC)
        self.assertEqual(r.config["storage_path"], "/data")
        self.assertNotIn("storage_url", r.config)
        self.assertNotIn("AWS_REGION", r.env)
        claim = r.find("PersistentVolumeClaim")
        self.assertEqual(claim["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")
        self.assertIn({"name": "data", "mountPath": "/data"}, r.container["volumeMounts"])
        self.assertNotIn("storageClassName", claim["spec"])
        r = Rendered(PVC, {"storage": {"pvc": {"existingClaim": "mine"}}})
        self.assertIsNone(r.find("PersistentVolumeClaim"))
        self.assertIn({"name": "data", "persistentVolumeClaim": {"claimName": "mine"}}, r.pod["volumes"])

    # How many

    def test_two_servers_on_a_bucket_one_on_a_volume(self):
        r = Rendered(S3)
        self.assertEqual(r.deployment["replicas"], 2)
        self.assertEqual(r.deployment["strategy"]["type"], "RollingUpdate")
        self.assertEqual(r.deployment["strategy"]["rollingUpdate"], {"maxUnavailable": 0, "maxSurge": 1})
        r = Rendered(PVC)
        self.assertEqual(r.deployment["replicas"], 1)
        self.assertEqual(r.deployment["strategy"], {"type": "Recreate"})
        shared = {"storage": {"pvc": {"accessModes": ["ReadWriteMany"]}}}
        r = Rendered(PVC, shared)
        self.assertEqual(r.deployment["replicas"], 2)
        self.assertEqual(r.deployment["strategy"]["type"], "RollingUpdate")
        self.assertEqual(Rendered(S3, {"replicaCount": 5}).deployment["replicas"], 5)

    def test_more_than_one_on_a_volume_of_one_node_is_refused(self):
        for mode in ("ReadWriteOnce", "ReadWriteOncePod"):
            one = merged(PVC, {"storage": {"pvc": {"accessModes": [mode]}}})
            self.refused(one | {"replicaCount": 2}, "2 servers", mode, "set replicaCount=1")
            self.refused(one | {"autoscaling": {"enabled": True}}, "autoscaling.enabled")
            self.assertEqual(Rendered(one, {"replicaCount": 1}).deployment["replicas"], 1)

    def test_autoscaling(self):
        self.assertIsNone(Rendered(S3).find("HorizontalPodAutoscaler"))
        r = Rendered(S3, {"autoscaling": {"enabled": True, "minReplicas": 3}})
        self.assertNotIn("replicas", r.deployment)
        spec = r.find("HorizontalPodAutoscaler")["spec"]
        self.assertEqual((spec["minReplicas"], spec["maxReplicas"]), (3, 6))
        self.assertEqual([metric["resource"]["name"] for metric in spec["metrics"]], ["cpu"])
        self.refused(S3 | {"autoscaling": {"enabled": True, "minReplicas": 7}}, "minReplicas is larger")
        self.refused(S3 | {"autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": None}}, "needs a target")

    def test_disruption_budget_has_exactly_one_bound(self):
        spec = Rendered(S3).find("PodDisruptionBudget")["spec"]
        self.assertEqual(spec["maxUnavailable"], 1)
        self.assertNotIn("minAvailable", spec)
        budget = {"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": None}}
        spec = Rendered(S3, budget).find("PodDisruptionBudget")["spec"]
        self.assertEqual(spec["minAvailable"], 1)
        self.assertNotIn("maxUnavailable", spec)
        self.refused(S3 | {"podDisruptionBudget": {"minAvailable": 1}}, "exactly one")
        self.refused(S3 | {"podDisruptionBudget": {"maxUnavailable": None}}, "exactly one")
        self.assertIsNone(Rendered(S3, {"podDisruptionBudget": {"enabled": False}}).find("PodDisruptionBudget"))
        self.assertIsNone(Rendered(PVC).find("PodDisruptionBudget"))
        self.assertIsNone(Rendered(S3, {"replicaCount": 1}).find("PodDisruptionBudget"))

    def test_a_disruption_budget_that_blocks_every_drain_is_refused(self):
        for minimum in (2, 3, "100%"):
            budget = {"podDisruptionBudget": {"minAvailable": minimum, "maxUnavailable": None}}
            self.refused(S3 | budget, "no node could be drained")
        for maximum in (0, "0%"):
            self.refused(S3 | {"podDisruptionBudget": {"maxUnavailable": maximum}}, "no node could be drained")
        scaled = {"autoscaling": {"enabled": True, "minReplicas": 4}}
        budget = {"podDisruptionBudget": {"minAvailable": 3, "maxUnavailable": None}}
        self.assertIsNotNone(Rendered(S3, scaled, budget).find("PodDisruptionBudget"))
        self.refused(merged(merged(S3, scaled), {"podDisruptionBudget": {"minAvailable": 4, "maxUnavailable": None}}), "drained")

    # Tokens

    def test_the_token_is_made_or_yours(self):
        r = Rendered(S3)
        made = r.find("Secret", "-token")
        self.assertEqual(len(base64.b64decode(made["data"]["token"])), 48)
        self.assertEqual(made["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")
        self.assertEqual(r.env["AUTH_TOKEN"], {"secretKeyRef": {"name": "rel-release-server-token", "key": "token"}})
        r = Rendered(S3, {"auth": {"existingSecret": "mine", "secretKey": "k"}})
        self.assertIsNone(r.find("Secret", "-token"))
        self.assertEqual(r.env["AUTH_TOKEN"], {"secretKeyRef": {"name": "mine", "key": "k"}})
        r = Rendered(S3, {"auth": {"generate": False}})
        self.assertIsNone(r.find("Secret", "-token"))
        self.assertNotIn("AUTH_TOKEN", r.env)

    def test_no_token_is_in_a_config_map(self):
        r = Rendered(TRIAL)
        secrets = [base64.b64decode(v).decode() for o in r.objects if o["kind"] == "Secret" for v in o["data"].values()]
        self.assertEqual(len(secrets), 5)
        for found in r.objects:
            if found["kind"] != "Secret":
                for text in secrets:
                    self.assertNotIn(text, yaml.safe_dump(found))

    # Settings

    def test_settings(self):
        r = Rendered(S3, {"config": {"max_packages": 0, "max_upload_bytes": 8589934592, "log": {"level": "debug"}}})
        self.assertEqual(r.config["max_packages"], 0)
        self.assertEqual(r.config["max_upload_bytes"], 8589934592)
        self.assertEqual(r.config["log"], {"level": "debug"})
        mount = next(mount for mount in r.container["volumeMounts"] if mount["name"] == "config")
        self.assertEqual((mount["mountPath"], mount["readOnly"]), ("/etc/release-server", True))

    def test_changed_settings_make_new_pods(self):
        def checksum(*changes):
            return Rendered(S3, *changes).deployment["template"]["metadata"]["annotations"]["checksum/config"]

        self.assertEqual(checksum(), checksum({"service": {"annotations": {"a": "b"}}}))
        self.assertNotEqual(checksum(), checksum({"config": {"max_packages": 5}}))
        self.assertNotEqual(checksum(), checksum({"publicUrl": "https://x"}))

    def test_what_the_values_say_already_is_no_setting(self):
        for key in ("port", "storage_url", "storage_path", "auth_token", "public_url", "metrics", "tls"):
            self.refused(S3 | {"config": {key: "x"}}, key)
        self.refused(S3 | {"config": {"server": {"shutdown_grace": "1s"}}}, "shutdown_grace")
        self.refused(S3 | {"config": {"auth": {"jwt": {"secret": "x"}}}}, "secret")

    def test_a_variable_is_set_once(self):
        keys = merged(S3, {"storage": {"s3": {"existingSecret": "k"}}})
        for name in ("AUTH_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_REGION", "METRICS__BIND_ADDRESS", "STORAGE_URL"):
            self.refused(keys | {"extraEnv": [{"name": name, "value": "x"}]}, f"extraEnv sets {name}")
        r = Rendered(S3, {"extraEnv": [{"name": "AUTH__JWT__SECRET", "value": "x"}]})
        self.assertEqual(r.env["AUTH__JWT__SECRET"], "x")

    def test_the_public_url(self):
        self.assertNotIn("public_url", Rendered(S3).config)
        self.assertEqual(Rendered(S3, {"publicUrl": "https://x/y"}).config["public_url"], "https://x/y")
        ingress = {"ingress": {"enabled": True, "host": "h", "pathPrefix": "/p"}}
        self.assertEqual(Rendered(S3, ingress).config["public_url"], "http://h/p")
        self.assertEqual(Rendered(S3, ingress, {"ingress": {"tlsSecret": "t"}}).config["public_url"], "https://h/p")
        self.assertEqual(Rendered(S3, ingress, {"publicUrl": "https://x"}).config["public_url"], "https://x")
        self.assertNotIn("public_url", Rendered(S3, {"ingress": {"enabled": False, "host": "h"}}).config)

    # Start and stop

    def test_the_grace_is_longer_than_both_waits(self):
        r = Rendered(S3)
        self.assertEqual(r.container["lifecycle"], {"preStop": {"sleep": {"seconds": 5}}})
        self.assertEqual(r.config["server"]["shutdown_grace"], "30s")
        self.assertEqual(r.pod["terminationGracePeriodSeconds"], 45)
        longer = {"shutdown": {"preStopSeconds": 15, "graceSeconds": 300}}
        r = Rendered(S3, longer, {"config": {"server": {"stall_timeout": "20s"}}})
        self.assertEqual(r.container["lifecycle"]["preStop"]["sleep"]["seconds"], 15)
        self.assertEqual(r.config["server"], {"shutdown_grace": "300s", "stall_timeout": "20s"})
        self.assertEqual(r.pod["terminationGracePeriodSeconds"], 325)
        self.assertNotIn("lifecycle", Rendered(S3, {"shutdown": {"preStopSeconds": 0}}).container)

    def test_probes(self):
        for tls, scheme in ((False, "HTTP"), (True, "HTTPS")):
            container = Rendered(S3, {"tls": {"enabled": tls, "existingSecret": "t"}}).container
            for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
                self.assertEqual(container[probe]["httpGet"], {"path": path, "port": 8000, "scheme": scheme})

    # Ways in

    def test_services(self):
        r = Rendered(S3)
        port = r.find("Service")["spec"]["ports"]
        self.assertEqual([(p["name"], p["port"]) for p in port], [("http", 80)])
        self.assertEqual(r.find("Service")["spec"]["type"], "ClusterIP")
        self.assertEqual(r.find("Service")["spec"]["selector"], r.deployment["selector"]["matchLabels"])
        labels = r.deployment["template"]["metadata"]["labels"]
        self.assertLessEqual(r.find("Service")["spec"]["selector"].items(), labels.items())
        self.assertEqual(Rendered(S3, {"service": {"port": 8080}}).find("Service")["spec"]["ports"][0]["port"], 8080)

    def test_tls(self):
        self.refused(S3 | {"tls": {"enabled": True}}, "tls.existingSecret")
        r = Rendered(S3, {"tls": {"enabled": True, "existingSecret": "t"}})
        self.assertEqual(r.env["TLS__CERTIFICATE"], "/etc/release-server-tls/tls.crt")
        self.assertEqual(r.env["TLS__KEY"], "/etc/release-server-tls/tls.key")
        mount = next(mount for mount in r.container["volumeMounts"] if mount["name"] == "tls")
        self.assertNotIn("subPath", mount)
        self.assertEqual([(p["name"], p["port"]) for p in r.find("Service")["spec"]["ports"]], [("https", 443)])
        self.assertEqual(r.container["ports"][0]["name"], "https")
        client = r.find("Pod", "-test-client")["spec"]
        for container in client["initContainers"] + client["containers"]:
            self.assertIn({"name": "RELEASE_SERVER_URL", "value": "https://rel-release-server:443"}, container["env"])
            self.assertIn({"name": "SSL_CERT_FILE", "value": "/tls/ca.crt"}, container["env"])
            self.assertIn({"name": "tls", "mountPath": "/tls", "readOnly": True}, container["volumeMounts"])
        # The authority alone: a test needs no key.
        self.assertEqual([v["secret"]["items"] for v in client["volumes"] if "secret" in v], [[{"key": "ca.crt", "path": "ca.crt"}]])
        plain = yaml.safe_dump(Rendered(S3).find("Pod", "-test-client"))
        self.assertNotIn("tls", plain)
        self.assertNotIn("SSL_CERT_FILE", plain)
        self.assertNotIn("TLS__KEY", Rendered(S3).env)

    def test_ingress(self):
        self.assertIsNone(Rendered(S3).find("Ingress"))
        ingress = Rendered(S3, {"ingress": {"enabled": True}}).find("Ingress")
        self.assertNotIn("tls", ingress["spec"])
        self.assertNotIn("annotations", ingress["metadata"])
        rule = ingress["spec"]["rules"][0]
        self.assertNotIn("host", rule)
        self.assertEqual((rule["http"]["paths"][0]["path"], rule["http"]["paths"][0]["pathType"]), ("/", "Prefix"))
        values = {"ingress": {"enabled": True, "host": "h", "pathPrefix": "/p", "tlsSecret": "t", "className": "c"}}
        spec = Rendered(S3, values).find("Ingress")["spec"]
        self.assertEqual(spec["ingressClassName"], "c")
        self.assertEqual(spec["tls"], [{"secretName": "t", "hosts": ["h"]}])
        self.assertEqual(spec["rules"][0]["http"]["paths"][0]["path"], "/p")
        self.assertEqual(spec["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"], {"number": 80})

    def test_ingress_nginx_strips_the_prefix_and_sets_no_limits(self):
        nginx = {"ingress": {"enabled": True, "controller": "nginx", "annotations": {"a": "b"}}}
        prefix = "nginx.ingress.kubernetes.io/"
        annotations = Rendered(S3, nginx).find("Ingress")["metadata"]["annotations"]
        self.assertEqual(annotations[prefix + "proxy-body-size"], "0")
        self.assertEqual(annotations[prefix + "proxy-request-buffering"], "off")
        self.assertEqual(annotations["a"], "b")
        self.assertNotIn(prefix + "rewrite-target", annotations)
        ingress = Rendered(S3, nginx, {"ingress": {"pathPrefix": "/p"}}).find("Ingress")
        self.assertEqual(ingress["metadata"]["annotations"][prefix + "rewrite-target"], "/$2")
        path = ingress["spec"]["rules"][0]["http"]["paths"][0]
        self.assertEqual((path["path"], path["pathType"]), ("/p(/|$)(.*)", "ImplementationSpecific"))
        mine = {"ingress": {"annotations": {prefix + "proxy-body-size": "8g"}}}
        self.assertEqual(Rendered(S3, nginx, mine).find("Ingress")["metadata"]["annotations"][prefix + "proxy-body-size"], "8g")
        tls = {"tls": {"enabled": True, "existingSecret": "t"}}
        annotations = Rendered(S3, nginx, tls).find("Ingress")["metadata"]["annotations"]
        self.assertEqual(annotations[prefix + "backend-protocol"], "HTTPS")

    def test_http_route(self):
        self.assertIsNone(Rendered(S3).find("HTTPRoute"))
        self.refused(S3 | {"httpRoute": {"enabled": True}}, "httpRoute.parentRefs")
        route = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}}
        rule = Rendered(S3, route).find("HTTPRoute")["spec"]["rules"][0]
        self.assertEqual(rule["matches"][0]["path"]["value"], "/")
        self.assertNotIn("filters", rule)
        self.assertNotIn("timeouts", rule)
        more = {"httpRoute": {"pathPrefix": "/p", "timeouts": {"request": "0s"}}}
        rule = Rendered(S3, route, more).find("HTTPRoute")["spec"]["rules"][0]
        self.assertEqual(rule["filters"][0]["urlRewrite"]["path"], {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"})
        self.assertEqual(rule["timeouts"], {"request": "0s"})
        self.assertEqual(rule["backendRefs"], [{"name": "rel-release-server", "port": 80}])

    def test_network_policy(self):
        self.assertIsNone(Rendered(S3, {"networkPolicy": {"enabled": False}}).find("NetworkPolicy"))
        spec = Rendered(S3).find("NetworkPolicy")["spec"]
        self.assertEqual(spec["policyTypes"], ["Ingress"])
        self.assertNotIn("egress", spec)
        self.assertEqual([rule["ports"][0]["port"] for rule in spec["ingress"]], [8000, 9090])
        self.assertNotIn("from", spec["ingress"][0])
        self.assertEqual(spec["ingress"][1]["from"], [{"namespaceSelector": {}}])
        self.assertEqual(len(Rendered(S3, {"metrics": {"enabled": False}}).find("NetworkPolicy")["spec"]["ingress"]), 1)

    def test_network_policy_out(self):
        def ports(*changes):
            spec = Rendered(S3, {"networkPolicy": {"egress": {"enabled": True}}}, *changes).find("NetworkPolicy")["spec"]
            self.assertEqual(spec["policyTypes"], ["Ingress", "Egress"])
            return [port["port"] for rule in spec["egress"] for port in rule["ports"]]

        self.assertEqual(ports(), [53, 53, 5353, 5353, 443, 80])
        self.assertIn(9000, ports({"storage": {"s3": {"endpoint": "http://m:9000"}}}))
        self.assertEqual(ports({"storage": {"s3": {"endpoint": "http://m"}}}).count(80), 2)
        self.assertIn(7, ports({"networkPolicy": {"egress": {"extra": [{"ports": [{"port": 7}]}]}}}))

    # Sweep

    def test_one_of_the_two_sweeps(self):
        r = Rendered(S3)
        self.assertIsNone(r.find("CronJob", "-sweep"))
        self.assertNotIn("retention", r.config)
        r = Rendered(S3, {"sweep": {"mode": "cronJob", "schedule": "1 2 * * *"}, "config": {"retention": {"max_age": "90d"}}})
        self.assertEqual(r.config["retention"], {"interval": "off", "max_age": "90d"})
        spec = r.find("CronJob", "-sweep")["spec"]
        self.assertEqual((spec["schedule"], spec["concurrencyPolicy"]), ("1 2 * * *", "Forbid"))
        pod = spec["jobTemplate"]["spec"]["template"]["spec"]
        self.assertEqual(pod["containers"][0]["args"], ["sweep"])
        self.assertNotIn("affinity", pod)
        r = Rendered(S3, {"sweep": {"mode": "off"}})
        self.assertIsNone(r.find("CronJob", "-sweep"))
        self.assertEqual(r.config["retention"], {"interval": "off"})
        interval = {"config": {"retention": {"interval": "2h"}}}
        self.assertEqual(Rendered(S3, interval).config["retention"], {"interval": "2h"})
        self.refused(S3 | interval | {"sweep": {"mode": "cronJob"}}, "config.retention.interval")

    def test_on_a_volume_of_one_node_the_job_goes_there(self):
        r = Rendered(PVC, {"sweep": {"mode": "cronJob"}})
        for pod in (r.find("CronJob", "-sweep")["spec"]["jobTemplate"]["spec"]["template"]["spec"], r.find("Pod", "-test-doctor")["spec"]):
            rule = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
            self.assertEqual(rule["labelSelector"]["matchLabels"], r.deployment["selector"]["matchLabels"])
        alone = merged(PVC, {"storage": {"pvc": {"accessModes": ["ReadWriteOncePod"]}}, "sweep": {"mode": "cronJob"}})
        self.refused(alone, "ReadWriteOncePod")

    # Metrics

    def test_metrics(self):
        r = Rendered(S3)
        self.assertEqual(r.env["METRICS__BIND_ADDRESS"], "0.0.0.0:9090")
        self.assertEqual(r.find("Service", "-metrics")["spec"]["ports"][0]["port"], 9090)
        for kind in ("ServiceMonitor", "PrometheusRule"):
            self.assertIsNone(r.find(kind))
        self.assertEqual(Rendered(S3, {"config": {"bind_address": "::"}}).env["METRICS__BIND_ADDRESS"], "[::]:9090")
        r = Rendered(S3, {"metrics": {"enabled": False}})
        self.assertNotIn("METRICS__BIND_ADDRESS", r.env)
        self.assertIsNone(r.find("Service", "-metrics"))
        self.assertEqual(len(r.container["ports"]), 1)
        for what in ("serviceMonitor", "prometheusRule"):
            self.refused(S3 | {"metrics": {"enabled": False, what: {"enabled": True}}}, f"metrics.{what}.enabled")

    def test_the_service_monitor_finds_the_service_for_metrics_alone(self):
        r = Rendered(S3, {"metrics": {"serviceMonitor": {"enabled": True, "labels": {"a": "b"}, "interval": "30s"}}})
        monitor = r.find("ServiceMonitor")
        self.assertEqual(monitor["metadata"]["labels"]["a"], "b")
        self.assertEqual(monitor["spec"]["endpoints"], [{"port": "metrics", "path": "/metrics", "interval": "30s"}])
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [o["metadata"]["name"] for o in r.objects if o["kind"] == "Service" and wanted <= o["metadata"]["labels"].items()]
        self.assertEqual(found, ["rel-release-server-metrics"])
        self.assertEqual(r.find("Service", "-metrics")["spec"]["ports"][0]["name"], "metrics")

    def test_alerts_fit_what_is_on(self):
        def alerts(*changes):
            rule = Rendered(S3, {"metrics": {"prometheusRule": {"enabled": True}}}, *changes).find("PrometheusRule")
            return {rule["alert"]: rule["expr"] for rule in rule["spec"]["groups"][0]["rules"]}

        usual = alerts()
        self.assertIn('namespace="ns", job="rel-release-server-metrics"', usual["ReleaseServerDown"])
        self.assertIn("release_server_sweep_last_success", usual["ReleaseServerSweepLate"])
        self.assertIn("kube_cronjob", alerts({"sweep": {"mode": "cronJob"}})["ReleaseServerSweepLate"])
        self.assertNotIn("ReleaseServerSweepLate", alerts({"sweep": {"mode": "off"}}))
        self.assertNotIn("ReleaseServerSweepLate", alerts({"config": {"retention": {"interval": "off"}}}))
        self.assertNotIn("ReleaseServerKeysStale", usual)
        jwt = {"config": {"auth": {"jwt": {"issuer": "i", "audience": ["a"], "algorithms": ["RS256"]}}}}
        self.assertIn("ReleaseServerKeysStale", alerts(jwt))
        self.assertNotIn("ReleaseServerCertificateRefused", usual)
        self.assertIn("ReleaseServerCertificateRefused", alerts({"tls": {"enabled": True, "existingSecret": "t"}}))
        self.assertIn("> 0.5", alerts({"metrics": {"prometheusRule": {"errorRatio": 0.5}}})["ReleaseServerFails"])

    def test_dashboard(self):
        self.assertIsNone(Rendered(S3).find("ConfigMap", "-dashboard"))
        board = Rendered(S3, {"metrics": {"dashboard": {"enabled": True}}}).find("ConfigMap", "-dashboard")
        self.assertEqual(board["metadata"]["labels"]["grafana_dashboard"], "1")
        self.assertIn("panels", json.loads(board["data"]["rel-release-server.json"]))

    # Tests

    def test_helm_test_publishes_only_where_that_pushes_nothing_out(self):
        def steps(*changes):
            pod = Rendered(S3, *changes).find("Pod", "-test-client")["spec"]
            return [container["name"] for container in pod.get("initContainers", []) + pod["containers"]]

        whole = ["ready", "upload", "download", "delete"]
        everything = {"config": {"max_packages": 0}}
        self.assertEqual(steps(), ["ready", "list"])
        self.assertEqual(steps(everything), whole)
        self.assertEqual(steps({"tests": {"upload": True}}), whole)
        self.assertEqual(steps(everything, {"tests": {"upload": False}}), ["ready", "list"])
        self.assertEqual(steps({"config": {"max_packages": 5}}), ["ready", "list"])
        for change in ({"versions_per_family": 1}, {"max_age": "9d"}):
            self.assertEqual(steps(everything, {"config": {"retention": change}}), ["ready", "list"])
        self.assertEqual(steps(everything, {"config": {"retention": {"max_age": "off", "versions_per_family": 0}}}), whole)
        self.assertEqual(steps(everything, {"config": {"read_only": True}}), ["ready", "list"])
        self.assertEqual(steps(everything, {"auth": {"generate": False}}), ["ready", "list"])
        self.assertEqual(steps({"auth": {"generate": False}, "config": {"auth": {"private_reads": True}}}), ["ready"])
        self.refused(S3 | {"auth": {"generate": False}, "tests": {"upload": True}}, "tests.upload needs a token")

    def test_the_client_has_the_token_that_there_is(self):
        variables = Rendered(S3).find("Pod", "-test-client")["spec"]["containers"][0]["env"]
        secret = {"secretKeyRef": {"name": "rel-release-server-token", "key": "token"}}
        self.assertIn({"name": "RELEASE_SERVER_TOKEN", "valueFrom": secret}, variables)
        none = Rendered(S3, {"auth": {"generate": False}}).find("Pod", "-test-client")["spec"]["containers"][0]["env"]
        self.assertEqual([variable["name"] for variable in none], ["RELEASE_SERVER_URL"])

    def test_tests_are_hooks(self):
        for pod in (o for o in Rendered(S3).objects if o["kind"] == "Pod"):
            self.assertEqual(pod["metadata"]["annotations"]["helm.sh/hook"], "test")
            # They must get no requests.
            self.assertNotEqual(pod["metadata"]["labels"]["app.kubernetes.io/component"], "server")

    # MinIO

    def test_trial(self):
        r = Rendered(TRIAL)
        self.assertEqual(r.config["storage_url"], "s3://releases")
        self.assertEqual(r.env["AWS_ENDPOINT_URL"], "http://rel-release-server-minio:9000")
        self.assertEqual(r.env["AWS_ACCESS_KEY_ID"]["secretKeyRef"]["name"], "rel-release-server-minio")
        self.assertEqual([container["name"] for container in r.pod["initContainers"]], ["bucket"])
        # Once the bucket can be listed with the servers' own key.
        names = [variable["name"] for variable in r.pod["initContainers"][0]["env"]]
        self.assertEqual(names, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MC_HOST_store"])
        self.assertNotIn("MINIO_ROOT", yaml.safe_dump(r.pod), "the servers know MinIO's administrator")
        self.assertIsNotNone(r.find("PersistentVolumeClaim", "-minio"))
        volume = r.find("Deployment", "-minio")["spec"]["template"]["spec"]["volumes"][0]
        self.assertEqual(volume["persistentVolumeClaim"], {"claimName": "rel-release-server-minio"})
        fleeting = Rendered(TRIAL, {"minio": {"size": ""}})
        self.assertIsNone(fleeting.find("PersistentVolumeClaim", "-minio"))
        volume = fleeting.find("Deployment", "-minio")["spec"]["template"]["spec"]["volumes"][0]
        self.assertEqual(volume["emptyDir"], {})
        for kind in ("Deployment", "Service", "Secret", "ConfigMap"):
            self.assertIsNone(Rendered(S3).find(kind, "-minio"))
        self.assertNotIn("initContainers", Rendered(S3).pod)
        self.refused(merged(TRIAL, {"storage": {"type": "pvc"}}), "minio.enabled needs storage.type=s3")
        for key in ("bucket", "prefix", "existingSecret"):
            self.refused(merged(TRIAL, {"storage": {"s3": {key: "x"}}}), "brings a bucket of its own")

    def test_a_changed_job_has_another_name(self):
        def job(*changes):
            return next(o["metadata"]["name"] for o in Rendered(TRIAL, *changes).objects if o["kind"] == "Job")

        self.assertEqual(job(), job({"replicaCount": 3}))
        self.assertNotEqual(job(), job({"minio": {"image": {"tag": "2"}}}))
        self.assertNotEqual(job(), job({"securityContext": {"runAsUser": 5}}))

    # The rest

    def test_where_pods_go(self):
        r = Rendered(S3)
        for rule in r.pod["topologySpreadConstraints"]:
            self.assertEqual(rule["labelSelector"]["matchLabels"], r.deployment["selector"]["matchLabels"])
        self.assertNotIn("affinity", r.pod)
        self.assertNotIn("priorityClassName", r.pod)
        own = {"labelSelector": {"matchLabels": {"a": "b"}}, "maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}
        self.assertEqual(Rendered(S3, {"topologySpreadConstraints": [own]}).pod["topologySpreadConstraints"], [own])
        self.assertNotIn("topologySpreadConstraints", Rendered(S3, {"topologySpreadConstraints": []}).pod)
        r = Rendered(S3, {"affinity": {"podAffinity": {}}, "priorityClassName": "p", "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}]})
        self.assertEqual(r.pod["affinity"], {"podAffinity": {}})
        self.assertEqual((r.pod["priorityClassName"], r.pod["nodeSelector"], r.pod["tolerations"]), ("p", {"a": "b"}, [{"key": "k"}]))

    def test_image(self):
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        self.assertEqual(Rendered(S3).container["image"], f"r:{version}")
        self.assertEqual(Rendered(S3, {"image": {"tag": "t"}}).container["image"], "r:t")
        digest = "sha256:" + "0" * 64
        self.assertEqual(Rendered(S3, {"image": {"digest": digest}}).container["image"], f"r:{version}@{digest}")

    def test_extras(self):
        values = yaml.safe_load((CHART / "ci/tls-and-extras.yaml").read_text())
        del values["fullnameOverride"]
        r = Rendered(values)
        self.assertEqual([container["name"] for container in r.pod["containers"]], ["release-server", "proxy"])
        self.assertEqual([container["name"] for container in r.pod["initContainers"]], ["wait"])
        self.assertIn({"name": "keys", "mountPath": "/keys", "readOnly": True}, r.container["volumeMounts"])
        self.assertIn({"name": "keys", "configMap": {"name": "keys"}}, r.pod["volumes"])
        self.assertEqual(r.find("ConfigMap", "-extra")["data"], {"release": "rel"})
        self.assertTrue(any(o["metadata"]["name"] == "keys" for o in r.objects))
        self.assertEqual(r.deployment["template"]["metadata"]["labels"]["azure.workload.identity/use"], "true")
        self.assertEqual(r.deployment["template"]["metadata"]["annotations"]["example.com/owner"], "platform")

    def test_names_have_room(self):
        long = "l" * 53
        status, output, error = helm("template", long, CHART, "--values", CHART / "ci/trial.yaml", "--set", "sweep.mode=cronJob")
        self.assertEqual(status, 0, error)
        for found in yaml.safe_load_all(output):
            # A CronJob's jobs have 11 characters more.
            self.assertLessEqual(len(found["metadata"]["name"]), 52 if found["kind"] == "CronJob" else 63)


class Notes(unittest.TestCase):
    def notes(self, base, *changes):
        values = base
        for change in changes:
            values = merged(values, change)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values, file)
            file.flush()
            status, output, error = helm("install", "rel", CHART, "--namespace", "ns", "--values", file.name, "--dry-run=client")
        self.assertEqual(status, 0, error)
        return output.partition("NOTES:\n")[2]

    def test_what_runs_where(self):
        self.assertIn("2 server(s) over the bucket b.", self.notes(S3))
        self.assertIn("3 to 6 server(s)", self.notes(S3, {"autoscaling": {"enabled": True, "minReplicas": 3}}))
        self.assertIn("1 server(s) over the volume claim rel-release-server.", self.notes(PVC))
        self.assertIn("over a MinIO for a trial.", self.notes(TRIAL))

    def test_the_next_command(self):
        notes = self.notes(S3)
        self.assertIn("helm test rel --namespace ns", notes)
        self.assertIn("port-forward service/rel-release-server 8000:80", notes)
        self.assertIn('get secret rel-release-server-token --output go-template=\'{{index .data "token" | base64decode}}\'', notes)
        self.assertIn("RELEASE_SERVER_URL=https://x", self.notes(S3, {"publicUrl": "https://x"}))

    def test_what_is_unsafe_is_said(self):
        usual = self.notes(S3, {"storage": {"s3": {"existingSecret": "k"}}, "config": {"max_packages": 0}})
        self.assertNotIn("WARNING", usual)
        ingress = {"ingress": {"enabled": True, "host": "h"}}
        for word, change in {
            "plain http": {"storage": {"s3": {"endpoint": "http://m"}}},
            "pod identity or the node": {"storage": {"s3": {"existingSecret": ""}}},
            "allow_last_writer_wins": {"config": {"allow_last_writer_wins": True}},
            "there is no token": {"auth": {"generate": False}},
            "no TLS of its own": ingress,
            "every package": ingress,
            "type NodePort": {"service": {"type": "NodePort"}},
            "networkPolicy.enabled is off": {"networkPolicy": {"enabled": False}},
        }.items():
            self.assertNotIn(word, usual)
            self.assertIn(word, self.notes(S3, {"storage": {"s3": {"existingSecret": "k"}}, "config": {"max_packages": 0}}, change))
        self.assertIn("10 newest", self.notes(S3))
        self.assertNotIn("10 newest", usual)
        self.assertIn("without an upload", self.notes(S3))
        self.assertNotIn("without an upload", usual)
        self.assertIn("each rendering makes another", usual)
        self.assertNotIn("each rendering makes another", self.notes(S3, {"auth": {"existingSecret": "t"}}))
        none = {"auth": {"generate": False}}
        self.assertNotIn("config.auth names", self.notes(S3, none))
        tokens = {"config": {"auth": {"tokens": [{"name": "n", "sha256": "0" * 64, "scopes": ["write"]}]}}}
        self.assertIn("but who config.auth names", self.notes(S3, none, tokens))
        self.assertIn("or publicUrl=https://h if", self.notes(S3, ingress))
        self.assertNotIn("or publicUrl=", self.notes(S3, ingress, {"publicUrl": "http://h"}))
        self.assertNotIn("If they come out wrong", self.notes(S3, ingress))
        self.assertIn("If they come out wrong", self.notes(S3, {"ingress": {"enabled": True}}))
        self.assertIn("is for a trial", self.notes(TRIAL))
        self.assertIn("one server", self.notes(PVC))


class Agreement(unittest.TestCase):
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    # What the chart sets from other values, or takes from Secrets.
    OURS = {
        "port", "storage_path", "storage_url", "auth_token", "public_url", "server.shutdown_grace",
        "metrics.bind_address", "tls.certificate", "tls.key",
    }  # fmt: skip

    def resolve(self, schema):
        name = schema.get("$ref", "").rpartition("/")[2]
        return self.schema["definitions"][name] if name else schema

    def test_no_unknown_key_is_taken(self):
        def walk(schema, path):
            if isinstance(schema, dict):
                if "properties" in schema:
                    self.assertIs(schema.get("additionalProperties"), False, path)
                for key, part in schema.items():
                    walk(part, f"{path}/{key}")

        walk(self.schema, "")
        for key in ("replicas", "storage.bucket", "config.max_package", "config.auth.tokenz", "minio.image.name"):
            status, _, error = template(S3, "--set", f"{key}=1")
            self.assertNotEqual(status, 0, key)
            self.assertIn("additional properties", error)

    def test_schema_and_values_have_the_same_keys(self):
        def compare(schema, values, path):
            schema = self.resolve(schema)
            if path and (path in ("config", "global") or not values or "properties" not in schema or path.endswith("resources")):
                return
            self.assertEqual(set(schema["properties"]), set(values), path)
            for key, value in values.items():
                compare(schema["properties"][key], value, f"{path}.{key}" if path else key)

        compare(self.schema, self.values, "")

    def test_every_setting_of_the_program_is_in_the_schema(self):
        defaults = yaml.safe_load((ROOT / "src/config.default.yaml").read_text())

        def keys(settings, prefix=""):
            for key, value in settings.items():
                if isinstance(value, dict):
                    yield from keys(value, f"{prefix}{key}.")
                else:
                    yield f"{prefix}{key}"

        def known(schema, prefix=""):
            for key, part in schema["properties"].items():
                part = self.resolve(part)
                # The program's defaults have nothing below these.
                if "properties" in part and f"{prefix}{key}" != "auth.jwt":
                    yield from known(part, f"{prefix}{key}.")
                else:
                    yield f"{prefix}{key}"

        in_program = set(keys(defaults)) - self.OURS
        in_schema = set(known(self.schema["definitions"]["config"]))
        self.assertEqual(in_program - in_schema, set(), "add these to values.schema.json, or to OURS")
        self.assertEqual(in_schema - in_program, set(), "the program does not have these")

    def test_versions(self):
        program = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
        self.assertEqual(yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"], program)

    def test_the_dashboard_and_the_alerts_ask_for_metrics_that_there_are(self):
        names = re.compile(r"release_server_[a-z0-9_]+")
        asked = set(names.findall((CHART / "dashboards/release-server.json").read_text()))
        asked |= set(names.findall((CHART / "templates/prometheusrule.yaml").read_text()))
        asked = {re.sub("_bucket$", "", name) for name in asked}
        self.assertGreater(len(asked), 20)
        # The program's own tests compare that table with the program.
        guide = (ROOT / "docs/operating.md").read_text().partition("\n## Metrics\n")[2]
        there = {f"release_server_{name}" for name in re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE)}
        self.assertEqual(asked - there, set(), "the program does not have these")

    def test_packaged_it_is_whole(self):
        with tempfile.TemporaryDirectory() as directory:
            status, output, error = helm("package", CHART, "--destination", directory)
            self.assertEqual(status, 0, error)
            package = next(pathlib.Path(directory).glob("*.tgz"))
            status, output, error = helm("template", "rel", package, "--values", CHART / "ci/trial.yaml")
            self.assertEqual(status, 0, error)
            scripts = [o for o in yaml.safe_load_all(output) if o["kind"] == "ConfigMap" and "init.sh" in o["data"]]
            self.assertEqual(scripts[0]["data"]["init.sh"].rstrip(), (ROOT / "minio/init.sh").read_text().rstrip())


if __name__ == "__main__":
    unittest.main()
