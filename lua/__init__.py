"""The scripts that run inside the store; a data package so that wheels and editable installs both find the files."""
