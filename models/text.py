"""A small GPT that writes text character by character.

Shapes: B windows of a batch, T characters of a window, C channels, H heads, D = C / H channels of a head,
V characters of the vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from models.bounds import Count, Natural, NonNegative, Positive, Probability
from models.data.characters import VOCABULARY

Batch = tuple[Tensor, Tensor]
"""Characters x_BT (int64, places in the vocabulary) and the character after each of them, y_BT."""

ROTARY_BASE = 10_000.0


class Rotary(nn.Module):
    """Turns pairs of channels by angles that grow with the place: (B, H, T, D) → (B, H, T, D).

    So the product of two places depends on how far apart they are (RoPE, arXiv:2104.09864).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_width: int, block_size: int) -> None:
        super().__init__()
        frequency_D2 = ROTARY_BASE ** -(torch.arange(0, head_width, 2) / head_width)
        angle_TD2 = torch.outer(torch.arange(block_size), frequency_D2)
        self.register_buffer("cos", angle_TD2.cos(), persistent=False)
        self.register_buffer("sin", angle_TD2.sin(), persistent=False)

    def forward(self, x_BHTD: Tensor) -> Tensor:
        """Turn queries or keys."""
        T = x_BHTD.shape[2]
        cos_TD2, sin_TD2 = self.cos[:T], self.sin[:T]
        a, b = x_BHTD.chunk(2, dim=3)
        return torch.cat([a * cos_TD2 - b * sin_TD2, a * sin_TD2 + b * cos_TD2], dim=3)


class CausalSelfAttention(nn.Module):
    """Every character looks at itself and at those before it: (B, T, C) → (B, T, C)."""

    def __init__(self, width: int, num_heads: int, block_size: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.rotary = Rotary(width // num_heads, block_size)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.projection = nn.Linear(width, width, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Attend."""
        B, T, C = x_BTC.shape
        split_3BHTD = self.query_key_value(x_BTC).view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q_BHTD, k_BHTD, v_BHTD = split_3BHTD.unbind(0)
        dropout = self.dropout if self.training else 0.0
        y_BHTD = F.scaled_dot_product_attention(
            self.rotary(q_BHTD), self.rotary(k_BHTD), v_BHTD, dropout_p=dropout, is_causal=True
        )
        y_BTC: Tensor = self.projection(y_BHTD.transpose(1, 2).reshape(B, T, C))
        return y_BTC


class Block(nn.Module):
    """Attention, then a network for each character by itself, each added to what comes in: (B, T, C) → (B, T, C)."""

    def __init__(self, width: int, num_heads: int, block_size: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, num_heads, block_size, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Attend and think."""
        attended_BTC = x_BTC + self.dropout(self.attention(self.attention_norm(x_BTC)))
        thought_BTC: Tensor = attended_BTC + self.dropout(self.mlp(self.mlp_norm(attended_BTC)))
        return thought_BTC


class CharacterGPT(LightningModule):
    """A transformer that says which character comes next, and so writes texts.

    GPT-2's plan (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019): normalisation before
    each part, GELU, residual projections that start smaller the deeper the network is, an output layer that is the
    embedding again (arXiv:1608.05859); but rotary positions, with which so small a network learns far sooner to look at
    the characters just before. AdamW decays matrices alone; the learning rate warms up and then follows half a cosine
    (arXiv:1608.03983) down to a tenth.

    Logs `train_loss` (each step) and `train_loss_epoch`, `val_loss`, `test_loss`, all in nats per character, and
    `val_bpc`, `test_bpc`, in bits per character. After each validation a text that the model writes goes to a
    logger that takes texts, as `sample`.
    """

    def __init__(
        self,
        vocabulary: str = VOCABULARY,
        block_size: Count = 64,
        num_layers: Count = 3,
        num_heads: Count = 4,
        width: Count = 96,
        dropout: Probability = 0.0,
        lr: Positive = 5e-3,
        weight_decay: NonNegative = 0.1,
        warmup_steps: Natural = 50,
        sample_length: Natural = 300,
        temperature: Positive = 0.7,
        sample_seed: Natural = 0,
    ) -> None:
        """Build the network.

        Args:
            vocabulary: Every character that a text may have; the data's must be the same.
            block_size: How many characters the network looks at, at most.
            num_layers: Blocks of attention and a network for each character.
            num_heads: Heads of each attention; they share the width.
            width: Channels of a character.
            dropout: Share of each part's outcome that training leaves out.
            lr: Highest learning rate.
            weight_decay: Weight decay of matrices; biases and normalisations have none.
            warmup_steps: Steps in which the learning rate rises to `lr`.
            sample_length: Characters of the sample after each validation, and of each prediction; 0: no sample.
            temperature: Of the characters that are written: below 1 the likely ones come more often than they should.
            sample_seed: Seed of the characters that are written.

        Raises:
            ValueError: the width cannot be shared among the heads, in pairs of channels.
        """
        super().__init__()
        if width % (2 * num_heads):
            raise ValueError(f"`width` {width} must be a multiple of twice the `num_heads`, {2 * num_heads}.")
        self.save_hyperparameters()
        self.vocabulary = vocabulary
        self.block_size = block_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.sample_length = sample_length
        self.temperature = temperature
        self.sample_seed = sample_seed

        self.character_embedding = nn.Embedding(len(vocabulary), width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, num_heads, block_size, dropout) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                depth = 2 * num_layers if name.endswith(("attention.projection.weight", "mlp.2.weight")) else 1
                nn.init.normal_(parameter, std=(parameter.shape[1] * depth) ** -0.5)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Logits (B, T, V) of the character after each.

        Raises:
            ValueError: there are more characters than the network can look at.
        """
        if (length := x_BT.shape[1]) > self.block_size:
            raise ValueError(
                f"A window has {length} characters, the model's block_size is {self.block_size}: raise it."
            )
        x_BTC = self.norm(self.blocks(self.dropout(self.character_embedding(x_BT))))
        return F.linear(x_BTC, self.character_embedding.weight)

    def on_fit_start(self) -> None:
        """See that the data's numbers mean the same characters as the model's.

        Raises:
            ValueError: they do not.
        """
        datamodule = getattr(self.trainer, "datamodule", None)
        if getattr(datamodule, "vocabulary", self.vocabulary) != self.vocabulary:
            raise ValueError(f"The `vocabulary` of {type(datamodule).__name__} and of the model must be the same.")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of one batch, nats per character."""
        loss = self._loss(batch)
        self.log("train_loss", loss, on_step=True, prog_bar=True)
        self.log("train_loss_epoch", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss on the validation text."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss on the test text."""
        self._evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Write a text, from the beginning of a paragraph on."""
        if self.sample_length == 0 or self.trainer.sanity_checking or not self.trainer.is_global_zero:
            return
        start_1T = torch.tensor([[max(0, self.vocabulary.find("\n"))]], device=self.device)
        [text] = self.write(start_1T, self.sample_length)
        experiment = getattr(self.logger, "experiment", None)
        if experiment is not None and hasattr(experiment, "add_text"):
            experiment.add_text("sample", text, self.global_step)

    def predict_step(self, batch: Tensor, batch_idx: int) -> list[str]:
        """Texts that go on from prompts (B, T)."""
        return self.write(batch, self.sample_length)

    @torch.no_grad()
    def write(self, prompts_BT: Tensor, length: int) -> list[str]:
        """The prompts and `length` characters more, each drawn from what the network expects next.

        The draws have a generator of their own, so that a run trains the same with samples and without.
        """
        generator = torch.Generator().manual_seed(self.sample_seed)
        x_BT = prompts_BT
        for _ in range(length):
            logits_BV = self(x_BT[:, -self.block_size :])[:, -1].float().cpu()
            next_B1 = torch.multinomial((logits_BV / self.temperature).softmax(dim=1), 1, generator=generator)
            x_BT = torch.cat([x_BT, next_B1.to(x_BT.device)], dim=1)
        return ["".join(self.vocabulary[index] for index in row) for row in x_BT.tolist()]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with two groups, warm-up and cosine; an `optimizer` in the config takes their place.

        Raises:
            ValueError: nothing says how long the training is.
        """
        total_steps = self.trainer.estimated_stepping_batches
        if math.isinf(total_steps):
            raise ValueError("The learning rate follows the length of the training: set max_epochs or max_steps.")
        groups = [
            {"params": [p for p in self.parameters() if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in self.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = AdamW(groups, lr=self.lr, betas=(0.9, 0.99))

        def factor(step: int) -> float:
            warmup = (step + 1) / (self.warmup_steps + 1)
            progress = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
            return min(warmup, 0.55 + 0.45 * math.cos(math.pi * min(1.0, max(0.0, progress))))

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def _loss(self, batch: Batch) -> Tensor:
        x_BT, y_BT = batch
        return F.cross_entropy(self(x_BT).flatten(0, 1), y_BT.flatten())

    def _evaluate(self, batch: Batch, split: str) -> None:
        loss = self._loss(batch)
        self.log(f"{split}_loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch[0]))
        self.log(f"{split}_bpc", loss / math.log(2), sync_dist=True, batch_size=len(batch[0]))
