"""The quick audit that runs before every training."""

from dataclasses import replace

from tfdetect.auditing.audit_dataset import quick_findings
from tfdetect.auditing.findings import NOTE, UNRELIABLE
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.text import shell_command
from tfdetect.data.catalog import Catalog
from tfdetect.data.plan import Plan, data_flags


def check_training_data(plan: Plan, catalog: Catalog, strict: bool) -> Catalog:
    """Print a warning for each problem that a quick audit finds in the planned data.

    Return the catalog with these warnings, so that report and model card have them, too.

    Args:
        plan: what will be trained.
        catalog: its files.
        strict: whether to raise an error instead, for unreliable data and for contradicting
            labels.

    Raises:
        UserError: `strict` is true, and the data are unreliable or labels contradict each other.
    """
    if plan.spec.pretraining:  # there are no labels, so that no trait can predict them
        return catalog
    findings = [f for f in quick_findings(plan.spec, catalog) if f.level != NOTE]
    if not findings:
        return catalog
    flags = data_flags(plan.spec, plan.data_dir)
    command = shell_command("audit", dataset=plan.experiment.data.dataset, **flags)
    hint = f"For the full audit: {command}"
    refused = [f for f in findings if f.level == UNRELIABLE or f.contradiction]
    if strict and refused:
        lines = "".join(f"\n  {finding.text}" for finding in refused)
        raise UserError(f"Results from {catalog.name} would be unreliable:{lines}\n{hint}")
    warnings = [f"{catalog.name}: {finding.text}" for finding in findings]
    for warning in warnings:
        console.warn(warning)
    console.log(hint)
    return replace(catalog, warnings=(*catalog.warnings, *warnings))
