"""Plans of the embedded data: images, scenes and questions, before they are drawn and worded."""
