"""What a new training of a stage starts from: random numbers, or the weights that ``training.init_from`` names."""

from collections.abc import Callable

import jax
from flax.traverse_util import flatten_dict

from imagen_jax.cascade.experiment import Experiment
from imagen_jax.cascade.loading import load_params, plan_stage
from imagen_jax.cascade.stage import abstract_params
from imagen_jax.config.sections import TrainingConfig
from imagen_jax.errors import UserError
from imagen_jax.models import Network
from imagen_jax.pretrained import find_part
from imagen_jax.runtime import processes
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.folder_kinds import has_state
from imagen_jax.training.optimizer import check_schedule, count_updates, make_schedule
from imagen_jax.training.starting import Weights, match, start_from
from imagen_jax.training.state import TrainState
from imagen_jax.training.workdir import has_begun


def check_start(training: TrainingConfig, network: type[Network] | None, shapes: TrainState) -> None:
    """Checks that a new run can start from the weights that ``training.init_from`` names, without reading them.

    Args:
        training: the training.
        network: the class of a network of the user's own, if the weights belong to one.
        shapes: shapes of the state.

    Raises:
        UserError: there are no such weights, they do not fit, or a key has no effect.
    """
    if not training.init_from:
        if training.init_parts or training.init_optimizer:
            raise UserError(
                "config.training.init_parts and init_optimizer have no effect without config.training.init_from: set it"
            )
        return
    source = find_part(training.init_from)
    try:
        plan = plan_stage(source, network=network, if_missing="check the path")
    except UserError as error:
        raise UserError(f"config.training.init_from: {error}") from error
    ours, theirs = (flatten_dict(params, sep="/") for params in (shapes.params, abstract_params(plan.stage)))
    match(ours, theirs, plan.name, training.init_parts)
    if training.init_optimizer and (training.init_parts or not has_begun(source) or not has_state(source)):
        why = "is to give parts alone" if training.init_parts else "has no state of an optimizer"
        raise UserError(
            f"config.training.init_optimizer continues all of a training, and {source} {why}: set it to False"
        )


def start_stage(
    config: Experiment, network: type[Network] | None, make_state: Callable[[], TrainState], shapes: TrainState
) -> TrainState:
    """Returns the state of a new run: of random parameters, or with the weights of ``training.init_from``.

    Args:
        config: the config, which ``check_start`` has checked.
        network: the class of a network of the user's own, if the weights belong to one.
        make_state: makes a state of random parameters, on the devices.
        shapes: shapes of the state, with their shardings.

    Raises:
        UserError: the weights are damaged, or the learning rate is 0 where the optimizer continues.
    """
    training, state = config.training, make_state()
    if not training.init_from:
        return state
    source = find_part(training.init_from)
    if training.init_optimizer:
        step, key = state.step, state.key
        del state
        with CheckpointStore(source / "checkpoints") as checkpoints:
            # Of this one step, so that nothing is set aside in a run that is not ours.
            before, _ = checkpoints.restore(shapes, checkpoints.latest_step_of_all())
        updates = int(count_updates(before.opt_state))
        # The learning rate continues where it was.
        check_schedule(make_schedule(config.optimizer.to_dict()), updates + training.steps)
        sentence = f"Starts from {source} (step {int(before.step)}): parameters, average and optimizer."
        state = before._replace(step=step, key=key)
    else:
        trained = load_params(plan_stage(source, network=network))
        flat = {path: jax.device_get(array) for path, array in flatten_dict(trained.params, sep="/").items()}
        state, sentence = start_from(state, Weights(flat, trained.name, trained.step), training.init_parts)
    if processes.is_process_zero():
        print(sentence, flush=True)
    return state
