"""The model: XLM-R's encoder over packed rows, heads, the used vocabulary, loading and export."""

from __future__ import annotations

from xtrain.model.bases import resolve
from xtrain.model.dropout import DropoutKeys
from xtrain.model.embeddings import layer_for_retrieval, sentence_vectors
from xtrain.model.encoder import Encoder
from xtrain.model.export import SavedHead, load_heads, save_encoder
from xtrain.model.heads import Head
from xtrain.model.heads import build as build_head
from xtrain.model.loading import LoadReport, base_fingerprint, load_encoder
from xtrain.model.memory import keep_freed_memory
from xtrain.model.phase_model import PhaseModel
from xtrain.model.vocabulary import UsedVocabulary, untouched_decay

__all__ = [
    "DropoutKeys",
    "Encoder",
    "Head",
    "LoadReport",
    "PhaseModel",
    "SavedHead",
    "UsedVocabulary",
    "base_fingerprint",
    "build_head",
    "keep_freed_memory",
    "layer_for_retrieval",
    "load_encoder",
    "load_heads",
    "resolve",
    "save_encoder",
    "sentence_vectors",
    "untouched_decay",
]
