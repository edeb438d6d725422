"""Base class of the builders here: configurations named by their fields."""

import tensorflow_datasets as tfds


class SettingsBuilder(  # type: ignore[call-arg]  # TFDS has no types
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """A builder that takes any configuration of the type of its first built-in one.

    Such a configuration derives its name from its fields. TFDS itself refuses one with the name of
    a built-in one, also where the two are equal, or differ only in where the user's files are.
    What it prepares is array_record, since TFDS's own default takes TensorFlow to read.
    """

    def __init__(self, *, file_format=None, **keywords):
        super().__init__(file_format=file_format or "array_record", **keywords)

    def _create_builder_config(self, builder_config, version):
        if isinstance(builder_config, type(self.BUILDER_CONFIGS[0])):
            return builder_config
        return super()._create_builder_config(builder_config, version)
