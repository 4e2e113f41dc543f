"""The files of `deploy/` against the schemas of the programs that read them."""

import json
import re
import shlex
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from jsonschema import ValidationError, validators
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
#: Of the Kubernetes releases whose schemas are at hand, an old one that is still maintained.
KUBERNETES = "1.32"

#: Flags of tensorflow_model_server (its main.cc), of those that make sense here.
FLAGS = {
    "batching_parameters_file", "enable_batching", "enable_model_warmup",
    "enable_per_model_batching_parameters", "file_system_poll_wait_seconds", "model_base_path",
    "model_config_file", "model_config_file_poll_wait_seconds", "model_name",
    "monitoring_config_file", "port", "rest_api_num_threads", "rest_api_port",
    "rest_api_timeout_in_ms", "ssl_config_file", "tensorflow_inter_op_parallelism",
    "tensorflow_intra_op_parallelism",
}  # fmt: skip


def messages():
    """The messages of TensorFlow Serving that its Python package lacks, rebuilt field by field.

    Names and types are those of `BatchingParameters` in session_bundle_config.proto and of
    `MonitoringConfig` in monitoring_config.proto. The text format knows no field numbers.
    """
    wrapped = {"Int64Value", "StringValue", "BoolValue"}
    fields = {
        "BatchingParameters": {
            "max_batch_size": "Int64Value",
            "batch_timeout_micros": "Int64Value",
            "max_enqueued_batches": "Int64Value",
            "num_batch_threads": "Int64Value",
            "thread_pool_name": "StringValue",
            "allowed_batch_sizes": "repeated int64",
            "pad_variable_length_inputs": "bool",
            "enable_large_batch_splitting": "BoolValue",
            "max_execution_batch_size": "Int64Value",
        },
        "PrometheusConfig": {"enable": "bool", "path": "string"},
        "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="deploy.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, types in fields.items():
        proto = file.message_type.add(name=message)
        for number, (name, kind) in enumerate(types.items(), 1):
            field = proto.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL)
            if kind.startswith("repeated"):
                field.label = kinds.LABEL_REPEATED
            scalar = f"TYPE_{kind.split()[-1].upper()}"
            if hasattr(kinds, scalar):
                field.type = getattr(kinds, scalar)
            else:
                field.type = kinds.TYPE_MESSAGE
                package = "google.protobuf" if kind in wrapped else "tensorflow.serving"
                field.type_name = f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
        )
        for name in fields
    }


MESSAGES = messages() | {"ModelServerConfig": ModelServerConfig}
CONFIGS = {
    "models.config": "ModelServerConfig",
    "batching.config": "BatchingParameters",
    "monitoring.config": "MonitoringConfig",
}


def parsed(name):
    text = (DEPLOY / name).read_text(encoding="utf-8")
    return text_format.Parse(text, MESSAGES[CONFIGS[name]]())


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def manifest(kind):
    documents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in MANIFESTS]
    return next(document for document in documents if document["kind"] == kind)


def container():
    return manifest("Deployment")["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_are_the_messages_that_the_server_reads(name):
    assert parsed(name).ListFields()


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, field)
        for name in CONFIGS
        for field in re.findall(
            r"^\s*(\w+)(?=:| \{)", (DEPLOY / name).read_text(encoding="utf-8"), re.MULTILINE
        )
    ],
)
def test_a_misspelt_field_is_an_error(name, field):
    text = (DEPLOY / name).read_text(encoding="utf-8")
    wrong, count = re.subn(rf"^(\s*){field}(?=:| \{{)", rf"\1{field}s", text, flags=re.MULTILINE)
    assert count
    with pytest.raises(text_format.ParseError, match=f"{field}s"):
        text_format.Parse(wrong, MESSAGES[CONFIGS[name]]())


def test_the_server_cannot_join_two_requests():
    parameters = parsed("batching.config")
    assert parameters.max_batch_size.value == 1
    assert parameters.HasField("enable_large_batch_splitting")
    assert not parameters.enable_large_batch_splitting.value
    for flags in (compose()["services"]["serving"]["command"], container()["args"]):
        assert "--enable_batching=true" in flags
        assert "--enable_per_model_batching_parameters=true" in flags


def test_flags_are_those_of_the_server_and_name_files_that_are_there():
    service = compose()["services"]["serving"]
    in_compose = {entry["target"] for entry in service["configs"]}
    kustomization = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text(encoding="utf-8"))
    mounted = {f"/config/{name}" for name in kustomization["configMapGenerator"][0]["files"]}
    for flags, files in ((service["command"], in_compose), (container()["args"], mounted)):
        settings = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
        assert settings.keys() <= FLAGS
        assert {value for name, value in settings.items() if name.endswith("_file")} == files
    assert {f"/config/{name}" for name in CONFIGS} == in_compose == mounted


def test_the_compose_file_follows_the_compose_specification():
    schemas = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text(encoding="utf-8"))
    validator = validators.validator_for(schema)(schema)
    validator.validate(compose())
    wrong = compose()
    wrong["services"]["serving"]["healthchecks"] = wrong["services"]["serving"].pop("healthcheck")
    with pytest.raises(ValidationError, match="healthchecks"):
        validator.validate(wrong)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_follow_the_schemas_of_kubernetes(path):
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    kubernetes_validate.validate(document, KUBERNETES, strict=True)
    document["spec" if "spec" in document else "metadata"]["misspelt"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="misspelt"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_the_whole_is_what_kubectl_makes_of_it():
    result = subprocess.run(
        ["kubectl", "kustomize", DEPLOY], capture_output=True, text=True, check=True
    )
    documents = list(yaml.safe_load_all(result.stdout))
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    assert len(documents) == len(MANIFESTS) + 1
    made = next(d for d in documents if d["kind"] == "ConfigMap")
    assert set(made["data"]) == set(CONFIGS)
    pod = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]
    mounted = next(v for v in pod["volumes"] if "configMap" in v)
    assert mounted["configMap"]["name"] == made["metadata"]["name"]


def test_manifests_name_one_another():
    kustomization = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text(encoding="utf-8"))
    assert sorted(kustomization["resources"]) == [f"kubernetes/{p.name}" for p in MANIFESTS]
    deployment = manifest("Deployment")
    name, labels = deployment["metadata"]["name"], deployment["spec"]["selector"]["matchLabels"]
    assert deployment["spec"]["template"]["metadata"]["labels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    assert manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == name
    ports = {port["name"] for port in container()["ports"]}
    assert {port["targetPort"] for port in manifest("Service")["spec"]["ports"]} == ports
    volumes = {v["name"]: v for v in deployment["spec"]["template"]["spec"]["volumes"]}
    assert {m["name"] for m in container()["volumeMounts"]} == volumes.keys()
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == manifest("PersistentVolumeClaim")["metadata"]["name"]


def test_probes_ask_for_the_model_that_is_served():
    model = parsed("models.config").model_config_list.config[0]
    for probe in ("startupProbe", "readinessProbe"):
        assert container()[probe]["httpGet"] == {"path": f"/v1/models/{model.name}", "port": "rest"}
    assert (
        f"GET /v1/models/{model.name} "
        in compose()["services"]["serving"]["healthcheck"]["test"][-1]
    )
    mounts = {m["mountPath"] for m in container()["volumeMounts"]}
    assert str(Path(model.base_path).parent) in mounts
    assert compose()["services"]["serving"]["volumes"][0]["target"] in mounts


def test_the_server_has_no_more_rights_than_it_needs():
    service, policy = compose()["services"]["serving"], manifest("NetworkPolicy")["spec"]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"] != "0:0"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    rights = container()["securityContext"]
    assert rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"]
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert policy["egress"] == [] and "Egress" in policy["policyTypes"]


def test_one_server_everywhere_of_the_tensorflow_that_exports():
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    line = shlex.split(next(x for x in readme.splitlines() if x.startswith("docker run")))
    images = {compose()["services"]["serving"]["image"], container()["image"], line[-1]}
    assert len(images) == 1
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    tensorflow = re.search(r"^tensorflow==(\d+\.\d+)\.", pinned, re.MULTILINE)[1]
    assert re.fullmatch(rf"tensorflow/serving:{re.escape(tensorflow)}\.\d+", images.pop())
    for environment in (
        compose()["services"]["serving"]["environment"],
        {e["name"]: e["value"] for e in container()["env"]},
        dict(x.split("=") for x in line if x.startswith("TF_")),
    ):
        assert environment["TF_ENABLE_ONEDNN_OPTS"] == "1"


def test_as_many_threads_as_cores():
    """More than the limit would be throttled."""
    service = compose()["services"]["serving"]
    for flags, cores in (
        (service["command"], service["deploy"]["resources"]["limits"]["cpus"]),
        (container()["args"], container()["resources"]["limits"]["cpu"]),
    ):
        for pool in ("intra", "inter"):
            assert f"--tensorflow_{pool}_op_parallelism={cores}" in flags
