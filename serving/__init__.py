"""Tools for trained cells: loading, chat, export, model cards."""
