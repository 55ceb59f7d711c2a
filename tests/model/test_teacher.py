"""The teacher: what it averages, what it borrows, and who may never see it."""

import copy
import io

import pytest
import torch
from encoders import data2vec, step
from torch import nn

from d2v.model.data2vec import Data2Vec
from d2v.model.heads import ConvDecoder2d
from d2v.model.losses import RegressionLoss
from d2v.model.masking import InverseBlockMasking
from d2v.model.targets import TopKTargets
from d2v.model.teacher import EMATeacher
from d2v.types import Batch, Data2VecOutput

close = torch.testing.assert_close
EVERY_SHARE = [(), ("feature_extractor",), ("positions",), ("feature_extractor", "positions")]


def method_of(student: nn.Module, shared: tuple = ()) -> Data2Vec:
    return data2vec(
        student,
        InverseBlockMasking(0.7, 2),
        TopKTargets(2),
        lambda width: ConvDecoder2d(width, 8, 1, 3, 2, mask_noise=0.0),
        RegressionLoss(),
        num_masks=2,
        shared_with_teacher=shared,
    )


@pytest.fixture(params=EVERY_SHARE, ids=lambda shared: "+".join(shared) or "nothing")
def shared(request):
    return request.param


def is_shared(name: str, shared: tuple) -> bool:
    return name.startswith(tuple(f"front.{part}." for part in shared))


def test_state_dict_and_parameters_hold_the_averaged_parts_alone(vision_encoder, shared):
    student = vision_encoder(positions="learned")
    teacher = EMATeacher(student, {"": shared})
    expected = {f"encoder.{name}" for name, _ in student.named_parameters() if not is_shared(name, shared)}
    assert {name for name, _ in teacher.named_parameters()} == expected
    assert set(teacher.state_dict()) == expected
    assert not any(p.requires_grad for p in teacher.parameters())
    own = {id(p) for p in student.parameters()}
    assert not any(id(p) in own for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters()), "freezing the teacher must not freeze the student"
    for name in shared:
        assert getattr(teacher.encoder.front, name) is getattr(student.front, name)


def test_borrowed_parts_follow_the_student_at_once_and_averaged_ones_do_not(vision_encoder, picture_batch, shared):
    student = vision_encoder(positions="learned")
    teacher = EMATeacher(student, {"": shared})
    batch = picture_batch()
    before = teacher(batch, student.extract(batch.inputs)).tokens
    close(before, student(batch.inputs).tokens)
    with torch.no_grad():
        student.front.feature_extractor.proj.weight.mul_(2)
        student.front.positions.table.add_(torch.randn_like(student.front.positions.table))
        student.trunk.blocks[0].mlp[0].weight.normal_()
    after = teacher(batch, student.extract(batch.inputs)).tokens
    if not shared:
        close(after, before, rtol=0, atol=0)
    else:
        assert (after - before).abs().max() > 0.01
        by_hand = copy.deepcopy(student)
        by_hand.load_state_dict(
            {
                **{k.removeprefix("encoder."): v for k, v in teacher.state_dict().items()},
                **{k: v for k, v in student.state_dict().items() if is_shared(k, shared)},
            }
        )
        close(after, by_hand(batch.inputs).tokens)


def test_the_teacher_is_always_in_eval_mode_and_gives_no_gradient(vision_encoder, picture_batch, shared):
    student = vision_encoder(positions="learned", dropout=0.5, drop_path=0.5, attention_dropout=0.5).train()
    method = method_of(student, shared).train()
    assert method.student.trunk.training
    assert not any(module.training for module in method.teacher.encoder.modules())
    batch = picture_batch()
    features = student.extract(batch.inputs)
    first, second = (method.teacher(batch, features) for _ in range(2))
    close(first.tokens, second.tokens, rtol=0, atol=0)
    assert not first.tokens.requires_grad
    assert not any(x.requires_grad for x in (*first.layers, *first.ffn_outputs))
    assert method.eval().train().teacher.encoder.training is False


def test_no_gradient_reaches_the_teacher_or_comes_through_it(vision_encoder, picture_batch, shared):
    """The student's gradient is that of the student's path alone, also where a part is borrowed."""
    student = vision_encoder(positions="learned")
    method = method_of(student, shared)
    batch = picture_batch()
    output = step(method, batch)
    assert not output.targets.requires_grad
    output.loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in student.parameters())
    frozen = copy.deepcopy(method)
    frozen.zero_grad()
    frozen.teacher = EMATeacher(frozen.student, {})  # the same weights, nothing borrowed
    step(frozen, batch).loss.backward()
    for (name, p), q in zip(student.named_parameters(), frozen.student.parameters(), strict=True):
        close(p.grad, q.grad, rtol=0, atol=1e-6, msg=name)


def test_update_is_the_published_formula_and_copies_buffers(token_encoder):
    student = token_encoder(mixing=True)
    teacher = EMATeacher(student, {"": ("positions",)})
    old = copy.deepcopy(teacher.state_dict())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
        student.front.feature_extractor.calls += 5
    borrowed = copy.deepcopy(student.front.positions.state_dict())
    teacher.update(student, 0.75)
    new, source = teacher.state_dict(), student.state_dict()
    assert not any("positions" in name for name in new)
    for name, value in new.items():
        inner = name.removeprefix("encoder.")
        if inner == "front.feature_extractor.calls":
            assert value == 5
        else:
            close(value, 0.75 * old[name] + 0.25 * source[inner], rtol=0, atol=1e-6)
    for name, value in borrowed.items():
        close(student.front.positions.state_dict()[name], value, rtol=0, atol=0)
    teacher.update(student, 1.0)
    for name, value in new.items():
        close(teacher.state_dict()[name], value, rtol=0, atol=0)
    teacher.update(student, 0.0)
    for name, value in teacher.state_dict().items():
        close(value, source[name.removeprefix("encoder.")], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_average_stays_fp32_under_autocast(vision_encoder, picture_batch, dtype):
    method = method_of(vision_encoder())
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    before = copy.deepcopy(method.teacher.state_dict())
    with torch.autocast("cpu", dtype=dtype):
        output: Data2VecOutput = step(method, picture_batch())
    assert output.loss.dtype == torch.float32
    assert output.targets.dtype == torch.float32
    output.loss.backward()
    optimizer.step()
    with torch.autocast("cpu", dtype=dtype):
        method.teacher.update(method.student, 0.9999)
    moved = 0
    for name, value in method.teacher.state_dict().items():
        assert value.dtype == torch.float32
        exact = (
            before[name].double() * 0.9999
            + method.student.state_dict()[name.removeprefix("encoder.")].double() * 0.0001
        )
        close(value.double(), exact, rtol=0, atol=1e-7)
        moved += int((value != before[name]).sum())
    assert moved > 100, "a step far below the resolution of bf16 must still move the average"


def test_a_copy_of_the_method_borrows_from_its_own_student(vision_encoder, picture_batch, shared):
    method = method_of(vision_encoder(positions="learned"), shared)
    again = copy.deepcopy(method)
    for name in shared:
        assert getattr(again.teacher.encoder.front, name) is getattr(again.student.front, name)
        assert getattr(again.teacher.encoder.front, name) is not getattr(method.student.front, name)
    own = {id(p) for p in method.parameters()}
    assert not any(id(p) in own for p in again.parameters())
    batch = picture_batch()
    close(step(again, batch).loss, step(method, batch).loss, rtol=0, atol=0)


def test_state_dict_round_trip(vision_encoder, picture_batch, shared):
    method = method_of(vision_encoder(positions="learned"), shared)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    again = method_of(vision_encoder(positions="learned", width=16), shared)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(torch.load(file, weights_only=True), strict=True)
    batch = picture_batch()
    close(step(again, batch).loss, step(method, batch).loss, rtol=0, atol=0)
    assert step(again, batch).targets.abs().max() > 0


def test_what_the_student_has_not_cannot_be_borrowed(vision_encoder):
    with pytest.raises(ValueError, match="'positions'"):
        EMATeacher(vision_encoder(positions=None), {"": ("positions",)})


def test_the_teacher_sees_everything(vision_encoder, picture_batch):
    """Targets are those of the unmasked input: neither the masks nor their number change them."""
    method = method_of(vision_encoder())
    batch = picture_batch()
    output = step(method, batch)
    every = method.task.targets(method.teacher(batch, method.student.extract(batch.inputs)))
    for row in range(8):
        close(output.targets[row], every[row // 2, output.mask.masked_index[row]], rtol=0, atol=0)
    method.task.num_masks = 1
    close(step(method, batch).targets, output.targets[::2], rtol=0, atol=1e-6)
    other = Batch(batch.inputs.roll(1, 0), batch.sample_ids, batch.epochs)
    assert (step(method, other).targets - output.targets[::2]).abs().max() > 0.01
