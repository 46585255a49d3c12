"""What each training minimises. One file each: whoever trains an expert does not depend on the router's."""
