"""The quick audit that runs before every training."""

from tfdetect.auditing.audit_dataset import quick_findings
from tfdetect.auditing.findings import NOTE, UNRELIABLE
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.data.catalog import Catalog
from tfdetect.data.plan import Plan


def check_training_data(plan: Plan, catalog: Catalog, strict: bool = False) -> None:
    """Print a warning for each problem that a quick audit finds in the planned data.

    Args:
        plan: what will be trained.
        catalog: its files.
        strict: whether to refuse unreliable data instead.

    Raises:
        UserError: strict, and results from this data would be unreliable.
    """
    if plan.spec.pretraining:  # no label, so nothing can leak it
        return
    findings = [f for f in quick_findings(plan.spec, catalog) if f.level != NOTE]
    if not findings:
        return
    hint = f"For the full audit: python -m tfdetect.audit --dataset {plan.experiment.data.dataset}"
    if plan.spec.authentic_by == "flag":
        hint += f" --authentic {plan.spec.class_names[0]}"
    if strict and (unreliable := [f.text for f in findings if f.level == UNRELIABLE]):
        lines = "".join(f"\n  {text}" for text in unreliable)
        raise UserError(f"Results from {catalog.name} would be unreliable:{lines}\n{hint}")
    for finding in findings:
        console.warn(f"{catalog.name}: {finding.text}")
    console.log(hint)
