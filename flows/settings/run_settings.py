"""All settings of a run, and what depends on several groups of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.settings.area import AreaSettings
from flows.settings.judging import JudgingSettings
from flows.settings.kinds import GridKind
from flows.settings.places import PlaceSettings, has_password
from flows.settings.restoring import RestoringSettings
from flows.settings.running import RunningSettings
from stac.catalog.indexes.opening import index_secret
from stac.grid.footprint import grown
from stac.io.access import Access, SigningOptions
from stac.io.addresses import host_of
from stac.io.secrets import holds_secret, keep
from stac.io.signing import Signing
from stac.load.stack import ReadOptions
from stac.search.opening import provider_of
from stac.search.query import Query

#: Settings that are addresses of services, whose logins are read from the environment alone.
ADDRESSES = ("source", "mlflow_uri", "signing_url", "s3_endpoint", "dask_scheduler")


class RunSettings(AreaSettings, PlaceSettings, RestoringSettings, JudgingSettings, RunningSettings, BaseSettings):
    """Everything a run depends on."""

    model_config = SettingsConfigDict(env_prefix="UNVEIL_", extra="forbid", frozen=True, allow_inf_nan=False)

    @property
    def search(self) -> Query:
        """What to search for: the query with `prior_days` more, and on a fixed grid with all of the cells it touches.

        So a cell finds the same scenes whatever box it was touched by.
        """
        query = self.query.widened(self.prior_days)
        if self.grid is GridKind.NATIVE or query.bbox is None:
            return query
        return replace(query, bbox=grown(query.bbox, self.resolution * self.cell_size))

    @property
    def access(self) -> Access:
        """How bytes are reached: signing, S3, and the hosts inside this network that may be asked."""
        keep(self.source)  # a process that only reads pixels knows its login from here
        named = {host_of(self.source), host_of(self.s3_endpoint or ""), *(each.lower() for each in self.allow_hosts)}
        signing = SigningOptions(self.signing or self._asked_signing, self.signing_url)
        return Access(self.s3, signing, frozenset(named) - {""})

    @property
    def _asked_signing(self) -> Signing:
        """How the source wants its hrefs signed."""
        provider = provider_of(self.source)
        return Signing(provider.signing) if provider is not None and provider.signing else Signing.NONE

    @property
    def shareable(self) -> dict[str, Any]:
        """All settings as JSON values that may be stored, e.g. as parameters of a flow: passwords are not.

        What is left out is found in the environment again, which is the only place it is taken from.
        """
        secret = {name for name in ADDRESSES if holds_secret(getattr(self, name) or "")}
        values = self.model_dump(mode="json", exclude={"ledger_url", "indexes"} | secret)
        if self.ledger_url is not None and not has_password(self.ledger_url.get_secret_value()):
            values["ledger_url"] = self.ledger_url.get_secret_value()
        if not any(index_secret(address) for address in self.index_addresses):
            values["indexes"] = list(self.index_addresses)
        return values

    @property
    def reading(self) -> ReadOptions:
        """How scenes are read."""
        return ReadOptions(
            self.cloud_dilation_m,
            self.shadow_dilation_m,
            self.timeout_s,
            interpolation=self.interpolation,
            radiometry_check=self.radiometry_check,
            masks=self.masks,
            mask_rule=self.mask_rule,
            persistent_bright=self.persistent_bright,
            access=self.access,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that changes pixels, as JSON values: part of a work unit's identity."""
        names = {
            "bands", "seed", "samples", "eta", "use_model", "gaps", "prior", "prior_days",
            "cloud_dilation_m", "shadow_dilation_m", "masks", "mask_rule", "persistent_bright",
            "radiometry_check", "max_spread", "interpolation",
        }  # fmt: skip
        (sampler, steps, start), (tile, overlap) = self.walk, self.tiling
        # Options of speed are named where they are taken: works made without them keep their identity.
        return (
            self.model_dump(mode="json", include=names)
            | {"sampler": str(sampler), "steps": steps, "start": start, "tile": tile, "overlap": overlap}
            | self.acceleration.recorded
        )
