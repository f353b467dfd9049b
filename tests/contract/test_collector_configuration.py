"""The Collector's configuration, what the local overlay changes of it, and the spans it makes metrics of."""

import re
import sys

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

import shipped
from collector_only import seconds

SHIPPED = yaml.safe_load((shipped.ROOT / "otel/coralogix-collector.yaml").read_text())
OVERLAYS = sorted((shipped.ROOT / "infrastructure/local").glob("*overlay*.yaml"))
STANDARD, COMPACT = SHIPPED["connectors"]["span_metrics"], SHIPPED["connectors"]["span_metrics/compact"]
MILLISECONDS = [2, 4, 6, 8, 10, 50, 100, 200, 400, 800, 1000, 1400, 2000, 5000, 10_000, 15_000]
# What one machine may change. Whatever else differs would be tested here and shipped otherwise.
MAY_CHANGE = {
    "address": r"exporters\.[^.]+\.endpoint|extensions\.health_check\.endpoint|receivers\..*\.endpoint",
    "port": r"service\.telemetry\.metrics\.readers",
    "CA": r"exporters\.[^.]+\.tls\.(ca_file|server_name_override)",
    "waiting time": r".*\.(\w+_interval|flush_timeout)",
}


def leaves(tree, path=""):
    """Return {dotted path: value} of a configuration."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: value for name in tree for key, value in leaves(tree[name], f"{path}.{name}".lstrip(".")).items()}


def max_bytes_received():
    """Return how large a request the Collector takes."""
    return SHIPPED["receivers"]["otlp"]["protocols"]["grpc"]["max_recv_msg_size_mib"] * 2**20


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_the_overlay_changes_only_addresses_ports_the_ca_and_waiting_times(overlay):
    tree = yaml.safe_load(overlay.read_text())
    additions = set(tree.get("exporters", {})) - set(SHIPPED["exporters"])
    changes = [path for path in leaves(tree) if path.split(".")[:2] not in [["exporters", name] for name in additions]]
    assert [path for path in changes if not any(re.fullmatch(p, path) for p in MAY_CHANGE.values())] == []


@pytest.mark.parametrize("additions", [[], ["otlp_grpc/stand-in"], ["otlp_grpc/stand-in", "otlp_grpc/viewer"]])
def test_a_pipeline_that_is_restated_has_the_shipped_exporters_then_the_additions(additions):
    restated = shipped.pipelines_with(additions)["service"]["pipelines"]
    pipelines = SHIPPED["service"]["pipelines"]
    assert {name: set(pipeline) for name, pipeline in restated.items()} == {name: {"exporters"} for name in pipelines}
    for name, pipeline in restated.items():
        assert pipeline["exporters"] == pipelines[name]["exporters"] + additions


def test_nothing_but_the_stand_in_takes_the_place_of_coralogix():
    changing = [path.name for path in OVERLAYS if "otlp_grpc/coralogix" in path.read_text()]
    assert changing == ["stand-in-overlay.yaml"]


@pytest.mark.parametrize("connector", [STANDARD, COMPACT], ids=["standard", "compact"])
def test_buckets_unit_and_interval_are_what_coralogix_reads(connector):
    assert [round(1000 * seconds(bucket)) for bucket in connector["histogram"]["explicit"]["buckets"]] == MILLISECONDS
    assert connector["histogram"]["unit"] == "ms"
    assert connector["metrics_flush_interval"] == "15s"


def test_the_names_of_the_metrics_are_what_coralogix_reads():
    assert (STANDARD["namespace"], COMPACT["namespace"]) == ("", "compact")


def test_both_connectors_agree_but_for_names_and_dimensions():
    differing = {"namespace", "dimensions", "exclude_dimensions"}
    assert {k: v for k, v in STANDARD.items() if k not in differing} == {
        k: v for k, v in COMPACT.items() if k not in differing
    }
    assert (STANDARD["exclude_dimensions"], COMPACT["exclude_dimensions"]) == ([], ["span.name"])
    assert "dimensions" not in COMPACT


def test_every_dimension_is_on_the_apis_server_span_or_its_resource(api):
    api.post()
    span = api.spans.one("POST /customers")
    found = {**span.resource.attributes, **span.attributes}
    assert {dimension["name"]: found.get(dimension["name"]) for dimension in STANDARD["dimensions"]} == {
        "http.method": "POST",
        "http.status_code": 202,
        "http.response.status_code": 202,
        "service.version": "test",
    }


def test_a_connection_that_was_forgotten_on_the_way_costs_less_than_a_minute():
    exporter = SHIPPED["exporters"]["otlp_grpc/coralogix"]
    keepalive, longest = exporter["keepalive"], exporter["retry_on_failure"]["max_interval"]
    given_up = seconds(keepalive["time"]) + seconds(keepalive["timeout"])
    assert given_up + 1.5 * seconds(longest) < 60  # a wait is up to a half longer or shorter at random


@pytest.mark.parametrize("connector", [STANDARD, COMPACT], ids=["standard", "compact"])
def test_what_happens_once_an_hour_does_not_begin_a_series_anew(connector):
    assert {seconds(connector[name]) for name in ("metrics_expiration", "series_expiration")} == {2 * 3600}


def test_no_span_that_is_received_is_too_large_for_a_request_to_coralogix():
    assert max_bytes_received() <= SHIPPED["exporters"]["otlp_grpc/coralogix"]["sending_queue"]["batch"]["max_size"]


def test_the_first_requests_that_series_keep_leave_the_collector_room_to_work():
    limiter, at_rest = SHIPPED["processors"]["memory_limiter"], 50
    kept = STANDARD["resource_metrics_cache_size"] * max_bytes_received() / 2**20
    assert at_rest + kept < limiter["limit_mib"] - limiter["spike_limit_mib"]


def test_the_largest_requests_of_api_and_function_are_received(api, function):
    header = "\xff" * 8000  # what gunicorn takes; a byte of Latin-1 is two of UTF-8
    tracestate = ",".join(f"k{number}=" + 250 * "v" for number in range(30))
    context = f"traceparent: 00-{'a' * 32}-{'b' * 16}-01\r\ntracestate: {tracestate}"
    raw = f"POST /{'%C3%BF' * 650} HTTP/1.1\r\nHost: {'h' * 5000}\r\nUser-Agent: {header}\r\n{context}\r\n\r\n"
    assert api.http(raw.encode("latin-1"), TRUST_INCOMING_TRACE_CONTEXT="true")[0] == 400
    container = next(
        c for c in shipped.read_json("taskdef.json")["containerDefinitions"] if c["name"] == "onboarding-api"
    )
    environment = {variable["name"]: variable["value"] for variable in container["environment"]}
    batch = int(environment["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"])
    request = encode_spans(list(api.spans.get_finished_spans()) * batch)
    assert len(request.resource_spans[0].scope_spans[0].spans) == batch
    assert 0.5 * max_bytes_received() < request.ByteSize() < max_bytes_received()
    of_the_function = sys.modules["export"].MAX_REQUEST_BYTES
    assert of_the_function < max_bytes_received()


def test_every_key_of_the_metrics_resource_is_set_by_both_programs(api, function):
    api.post()
    keys = set(STANDARD["resource_metrics_key_attributes"])
    assert keys <= set(api.spans.one("sqs.send").resource.attributes)
    assert keys <= set(function.telemetry.provider.resource.attributes)
    assert "service.instance.id" not in keys


def test_every_span_passes_both_connectors_before_anything_could_sample_it():
    pipelines = SHIPPED["service"]["pipelines"]
    assert pipelines["traces"]["exporters"][:2] == ["span_metrics", "span_metrics/compact"]
    assert pipelines["metrics"]["receivers"] == ["span_metrics", "span_metrics/compact"]
    assert pipelines["traces"]["processors"] == ["memory_limiter", "sanitizer"]


def test_every_component_that_is_configured_is_used():
    pipelines, extensions = SHIPPED["service"]["pipelines"].values(), SHIPPED["service"]["extensions"]
    used = {name for pipeline in pipelines for part in pipeline.values() for name in part} | set(extensions)
    configured = {name for part in SHIPPED if part != "service" for name in SHIPPED[part]}
    assert configured == used


def test_the_label_that_keeps_collectors_apart_is_switched_on_by_name():
    gate, file = shipped.start_command("otel/Dockerfile")
    assert gate == "--feature-gates=connector.spanmetrics.includeCollectorInstanceID"
    assert file == "--config=/etc/otelcol/config.yaml"


def test_the_collector_has_one_version():
    files = {name: (shipped.ROOT / name).read_text() for name in ("otel/builder.yaml", "otel/Dockerfile", "Makefile")}
    (version,) = set(re.findall(r"^ +- gomod: .*(?<!provider) (v0\S+)$", files["otel/builder.yaml"], re.MULTILINE))
    assert re.findall(r"cmd/builder@(v[\d.]+)", files["otel/builder.yaml"] + files["otel/Dockerfile"]) == [version] * 2
    assert version in files["Makefile"] + (shipped.ROOT / "infrastructure/local/install.py").read_text()


def test_the_sanitizer_is_built_with_the_modules_of_that_version():
    manifest = (shipped.ROOT / "otel/builder.yaml").read_text()
    module, path = re.search(r"gomod: (\S+/sanitizer) v\S+ #.*\n +path: (\S+)", manifest).groups()
    text = (shipped.ROOT / "otel" / path / "go.mod").read_text()
    assert f"module {module}\n" in text
    beta = re.search(r"builder@(v[\d.]+)", (shipped.ROOT / "otel/Dockerfile").read_text())[1]
    stable = re.search(r"provider (v1\S+)", manifest)[1]
    assert set(re.findall(r"^\tgo\.opentelemetry\.io/collector/\S+ (v\S+)$", text, re.MULTILINE)) == {beta, stable}
