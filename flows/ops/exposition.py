"""The metrics of a state folder in the format of Prometheus: read when they are asked for, by any process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flows.errors import InvalidSettings, LedgerUnavailable
from flows.ledger.schema import State
from flows.ledger.spent import totals
from flows.ledger.store import status

if TYPE_CHECKING:
    from flows.settings import RunSettings


#: Counters by the name of their sum.
_COUNTERS = {
    "units": ("unveil_units_restored", "Work units restored"),
    "tiles": ("unveil_tiles", "Model tiles run"),
    "seconds": ("unveil_unit_seconds", "Clock time of units, seconds"),
    "cpu_seconds": ("unveil_cpu_seconds", "Processor time of units, seconds"),
    "gpu_seconds": ("unveil_gpu_seconds", "Time of the model on a GPU, seconds"),
    "km2": ("unveil_km2", "Area restored, square kilometres"),
    "bytes_written": ("unveil_written_bytes", "Size of the products' files, bytes"),
    "cost": ("unveil_cost", "Clock time x price_per_hour, in the currency of the price"),
}


@dataclass(frozen=True, slots=True)
class RunCollector:
    """Collects the metrics of one state folder and ledger."""

    settings: RunSettings

    def collect(self) -> Iterator[Any]:
        """Yield the metric families."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, value in totals(self.settings.state).items():
            metric, text = _COUNTERS[name]
            yield CounterMetricFamily(metric, text, value=value)
        try:
            found = status(self.settings, limit=1)
            counts, retries, up = found.counts, found.retries, 1
        except LedgerUnavailable:
            counts, retries, up = dict.fromkeys(State, 0), 0, 0
        yield GaugeMetricFamily("unveil_ledger_up", "Whether the ledger answers", value=up)
        units = GaugeMetricFamily("unveil_units", "Work units in the ledger by state", labels=["state"])
        for state, count in counts.items():
            units.add_metric([state.value.lower()], count)
        yield units
        waiting = counts[State.CLAIMED] + counts[State.RUNNING] + counts[State.FAILED]
        yield GaugeMetricFamily("unveil_queue_depth", "Units held by runs, and failed ones that wait", value=waiting)
        yield GaugeMetricFamily("unveil_retries", "Attempts beyond the first, all units", value=retries)
        yield from _gpu_metrics()


def exposed(settings: RunSettings) -> str:
    """Return all metrics as text, e.g. for the textfile collector of the node exporter.

    Raises:
        InvalidSettings: prometheus-client is not installed.
    """
    client = _client()
    return str(client.generate_latest(_registry(settings)).decode())


def serve(settings: RunSettings, host: str, port: int) -> tuple[Any, Any]:
    """Serve the metrics at `/metrics` in a thread; return the server and its thread.

    Raises:
        InvalidSettings: prometheus-client is not installed, or the port is taken.
    """
    client = _client()
    try:
        server, thread = client.start_http_server(port, addr=host, registry=_registry(settings))
    except OSError as error:
        raise InvalidSettings(
            f"Port {port} of {host} cannot be used ({error.strerror}); choose another --port."
        ) from error
    return server, thread


def _registry(settings: RunSettings) -> Any:
    registry = _client().CollectorRegistry(auto_describe=False)
    registry.register(RunCollector(settings))
    return registry


def _client() -> Any:
    try:
        return import_module("prometheus_client")
    except ImportError as error:
        raise InvalidSettings("Metrics need prometheus-client; install unveil-eo[metrics].") from error


def _gpu_metrics() -> Iterator[Any]:
    """Yield use and memory of every GPU; nothing where there is none, or no way to ask."""
    from prometheus_client.core import GaugeMetricFamily

    try:
        nvml = import_module("pynvml")
    except ImportError:
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return
    busy = GaugeMetricFamily("unveil_gpu_utilisation", "Busy share of a GPU, 0-1", labels=["gpu"])
    memory = GaugeMetricFamily("unveil_gpu_memory_bytes", "Memory in use on a GPU, bytes", labels=["gpu"])
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        busy.add_metric([str(index)], nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        memory.add_metric([str(index)], nvml.nvmlDeviceGetMemoryInfo(handle).used)
    yield busy
    yield memory
