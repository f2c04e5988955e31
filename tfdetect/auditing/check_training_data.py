"""The quick audit that runs before every training."""

import sys

from tfdetect.core.errors import UserError
from tfdetect.data.catalog import Catalog
from tfdetect.data.plan import Plan


def check_believable(plan: Plan, catalog: Catalog, strict: bool = False) -> None:
    """Warns of what a quick audit finds wrong with the planned data.

    Raises:
        UserError: strict, and results from this data should not be believed.
    """
    from tfdetect.auditing.audit_dataset import quick_findings
    from tfdetect.auditing.findings import NOTE, REFUSE

    if plan.spec.pretraining:  # no label that anything could give away
        return
    found = [f for f in quick_findings(plan.spec, catalog) if f.level != NOTE]
    refused = [f.text for f in found if f.level == REFUSE]
    whole = f"The whole audit: python -m tfdetect.audit --dataset {plan.experiment.data.dataset}"
    if refused and strict:
        lines = "".join(f"\n  {text}" for text in refused)
        raise UserError(f"Results from {catalog.name} should not be believed:{lines}\n{whole}")
    for finding in found:
        print(f"warning: {catalog.name}: {finding.text}", file=sys.stderr)
    if found:
        print(f"{whole}", file=sys.stderr)
