"""A recipe under the doctor: data read, prompt built, everything looked at, nothing trained."""

from softprompt import joint
from softprompt.backbones import Backbone
from softprompt.doctor import before
from softprompt.doctor.findings import Finding, of_error
from softprompt.errors import BackboneError, SoftpromptError, Unsupported
from softprompt.plan import make_plan
from softprompt.recipe import Recipe
from softprompt.training import open_backbone, set_threads


def examine(recipe: Recipe, backbone: Backbone | None = None) -> list[Finding]:
    """What shows before the first step; a recipe that is refused is a finding.

    Raises `BackboneError` where there is no backbone to look with.
    """
    try:
        backbone = backbone or open_backbone(recipe)
        set_threads(recipe)
        plan = make_plan(recipe, backbone)
        return before.examine(joint.build(plan, backbone).alone, plan)
    except SoftpromptError as error:
        if isinstance(error, BackboneError) and not isinstance(error, Unsupported):
            raise
        return [of_error(error)]
