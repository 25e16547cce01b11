"""Types of libraries that take seconds to import, for annotations.

At run time these are strings. Who makes one, or asks for one, imports the library there.
"""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # not where options are: to read them, jsonargparse runs such a block
    import datasets
    import transformers

Dataset: TypeAlias = "datasets.Dataset"
GenerationConfig: TypeAlias = "transformers.GenerationConfig"
PretrainedConfig: TypeAlias = "transformers.PretrainedConfig"
PreTrainedModel: TypeAlias = "transformers.PreTrainedModel"
PreTrainedTokenizerBase: TypeAlias = "transformers.PreTrainedTokenizerBase"
